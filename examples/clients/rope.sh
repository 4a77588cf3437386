#!/bin/sh
# Rotate two tokens with curl: sh rope.sh [http://127.0.0.1:8000]
set -eu
url=${1:-http://127.0.0.1:8000}
expected="0 1 2 3 -2.8876166 4.9297514 6.607698 7.0496492"
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"

# q is [batch, sequence, heads, head_dim]
header='{"inputs": [
  {"name": "q", "shape": [1, 2, 1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}},
  {"name": "positions", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}],
 "outputs": [{"name": "q", "parameters": {"binary_data": true}}]}'
{
    printf %s "$header"
    # float32, little-endian: 0 to 3 (1 is 00 00 80 3f), then 4 to 7
    printf '\0\0\0\0\0\0\200\077\0\0\0\100\0\0\100\100'
    printf '\0\0\200\100\0\0\240\100\0\0\300\100\0\0\340\100'
    printf '\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0' # int64: 0, 1
} >body

# --data would remove line ends and stop at a zero byte
status=$(curl -sS -D headers -o response -w '%{http_code}' "$url/v2/models/rope/infer" \
    -H 'Content-Type: application/octet-stream' \
    -H "Inference-Header-Content-Length: ${#header}" --data-binary @body)
if [ "$status" != 200 ]; then
    echo "$status: $(cat response)" >&2 # {"error": "what is wrong"}
    exit 1
fi

# one output was requested, so its numbers are everything after the JSON
length=$(tr -d '\r' <headers | awk -F': ' 'tolower($1) == "inference-header-content-length" {print $2}')
head -c "$length" response && echo
# od reads float32 in the byte order of this machine, which is nearly always little-endian
rotated=$(tail -c +$((length + 1)) response | od -A n -v -t f4 | tr -s ' \n' ' ')
echo "rotated$rotated"
echo "$expected $rotated" | awk '
    NF != 16 {exit 1}
    {for (i = 1; i <= 8; i++) {d = $i - $(i + 8); if (!(d > -1e-5 && d < 1e-5)) exit 1}}' ||
    { echo "these are not the numbers expected: $expected" >&2; exit 1; }
