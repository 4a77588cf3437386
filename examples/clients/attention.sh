#!/bin/sh
# Attention of two tokens over /v1, in safetensors, with curl: sh attention.sh [http://127.0.0.1:8000]
set -eu
url=${1:-http://127.0.0.1:8000}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"

# q, k and v are [batch, sequence, heads, head_dim]
header='{"__metadata__": {"params": "{\"rope\": {\"theta\": 10000.0}, \"return_lse\": true}"},
 "q": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [0, 32]},
 "k": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [32, 64]},
 "v": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [64, 96]},
 "positions": {"dtype": "I64", "shape": [2], "data_offsets": [96, 112]}}'
length=${#header}
{
    # safetensors: the length of the header in 8 bytes, the header as JSON, the tensors
    printf "\\$(printf %03o $((length % 256)))\\$(printf %03o $((length / 256)))\0\0\0\0\0\0"
    printf %s "$header"
    for tensor in q k; do # float32, little-endian: 0 to 1.75 (0.25 is 00 00 80 3e)
        printf '\0\0\0\0\0\0\200\076\0\0\0\077\0\0\100\077'
        printf '\0\0\200\077\0\0\240\077\0\0\300\077\0\0\340\077'
    done
    printf '\0\0\0\0\0\0\200\077\0\0\0\100\0\0\100\100' # v: 0 to 7
    printf '\0\0\200\100\0\0\240\100\0\0\300\100\0\0\340\100'
    printf '\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0' # int64: 0, 1
} >body

# --data would remove line ends and stop at a zero byte
status=$(curl -sS -o response -w '%{http_code}' "$url/v1/attention" \
    -H 'Content-Type: application/x-safetensors' --data-binary @body)
if [ "$status" != 200 ]; then
    # {"code": "shape", "detail": "what is wrong", ...}; with 429 and 503 a Retry-After in seconds
    echo "$status: $(cat response)" >&2
    exit 1
fi

length=$(od -A n -t u8 -N 8 response)
print_tensor() {
    # a parser of JSON, like jq, is the better choice in a program
    offsets=$(head -c $((8 + length)) response | tail -c +9 |
        sed "s/.*\"$1\":{[^}]*\"data_offsets\":\[\([0-9]*,[0-9]*\)\].*/\1/")
    first=${offsets%,*} end=${offsets#*,}
    # od reads float32 in the byte order of this machine, which is nearly always little-endian
    od -A n -v -t f4 -j $((8 + length + first)) -N $((end - first)) response | tr -s ' \n' ' '
}
check() {
    numbers=$(print_tensor "$1")
    echo "$1$numbers"
    echo "$2 $numbers" | awk '
        NF == 0 || NF % 2 {exit 1}
        {for (i = 1; i <= NF / 2; i++) {d = $i - $(i + NF / 2); if (!(d > -1e-5 && d < 1e-5)) exit 1}}' ||
        { echo "these are not the numbers expected: $2" >&2; exit 1; }
}
check out "0 1 2 3 3.7503535 4.7503535 5.7503535 6.7503535"
check lse "0.4375 4.0019443"
