#!/bin/sh
# A session: create, step, inspect and delete with curl, in JSON: sh session.sh [http://127.0.0.1:8000]
set -eu
url=${1:-http://127.0.0.1:8000}

# Print the body of the answer. call METHOD PATH [BODY]
call() {
    answer=$(curl -sS -w '\n%{http_code}' -X "$1" "$url$2" -H 'Content-Type: application/json' -d "${3-}")
    case $answer in
        *"
20"?) echo "$answer" | sed '$d' ;;
        *) echo "$answer" >&2; return 1 ;; # {"code": "session_conflict", "detail": "what is wrong", ...}
    esac
}

# Print the member of a JSON object, a text or a list of numbers. A parser like jq is the better choice.
member() { sed -n "s/.*\"$1\":[\"[]\([^]\"]*\)[]\"].*/\1/p"; }

step() { # step NUMBER TOKEN: q, k and v are [batch, tokens, heads, head_dim]
    answer=$(call POST "$session/step" "{\"layer\": 0, \"expected_length\": $2, \"expected_generation\": 0,
        \"q\": [[[[2, 0]]]], \"k\": [[[[2, 0]]]], \"v\": [[[[$(($2 + 2)), $(($2 + 3))]]]]}")
    out=$(echo "$answer" | member data)
    echo "step$1 $out"
    # q and k rotate by one radian a token, so the product of the query and a key is 4 times the
    # cosine of their distance
    echo "$2,$out,$(echo "$answer" | member length)" | awk -F, '
        {for (j = 0; j <= $1; j++) {w = exp(4 * cos($1 - j) / sqrt(2)); out += w * (j + 2); total += w}
         a = $2 - out / total; b = $3 - out / total - 1
         exit !(NF == 4 && $4 == $1 + 1 && a < 1e-5 && a > -1e-5 && b < 1e-5 && b > -1e-5)}' ||
        { echo "these are not the numbers expected, in $answer" >&2; exit 1; }
}

created=$(call POST /v1/sessions '{"heads": 1, "head_dim": 2, "rope": {"theta": 10000}, "max_tokens": 64}')
session=/v1/sessions/$(echo "$created" | member id)
step 0 0
step 1 1
step 2 2
step 3 2 # the last step again, as after a lost answer
call GET "$session"
call DELETE "$session"
