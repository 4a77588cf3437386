// The request of the Try view for curl, with a JSON body. Tensors are made by awk.

export const file = "request.sh";
export const run = "sh request.sh";

/** Return the script. */
export function code(request) {
  const { method, url, tensors, params, hasBody, auth } = request;
  const lines = ["#!/bin/sh"];
  const headers = [`-X ${method}`, ...(auth ? ['-H "Authorization: Bearer $ROPE_API_KEY"'] : [])];
  if (!hasBody) return [...lines, `curl -sS ${headers.join(" ")} ${quoted(url)} -o answer`, "head -c 600 answer", ""].join("\n");
  headers.push("-H 'Content-Type: application/json'", "-H 'Accept: application/json'");
  const call = [`curl -sS ${headers[0]} ${quoted(url)}`, ...headers.slice(1), "--data-binary @- -o answer.json"];
  if (tensors.length === 0) {
    return [...lines, `${call.join(" \\\n    ")} <<'JSON'`, JSON.stringify(params, null, 1), "JSON", "head -c 600 answer.json", ""].join("\n");
  }
  lines.push(...shellFunctions(tensors));
  let rest = JSON.stringify(params).slice(1, -1);
  const parts = tensors.map((tensor, i) => {
    const start = `${i ? "," : "{"}"${tensor.name}":{"shape":${JSON.stringify(tensor.shape)},"dtype":"${tensor.dtype}","data":[`;
    return `  printf %s ${quoted(start)}; ${numbersCommand(tensor)}${tensor.dtype === "bool" ? " | sed 's/0/false/; s/1/true/'" : ""} | paste -sd , -; printf ']}'`;
  });
  return [...lines, "{", ...parts, `  printf %s ${quoted(`${rest && ","}${rest}}`)}`, `} | ${call.join(" \\\n    ")}`, "head -c 600 answer.json", ""].join("\n");
}

/** Return a text in single quotes of the shell. */
export function quoted(text) {
  return `'${String(text).replaceAll("'", "'\\''")}'`;
}

const NORMAL = `normal() { # count, seed: one number a line, close to a standard normal one
  awk -v n="$1" -v x="$2" 'BEGIN { for (i = 0; i < n; i++) { s = -90
    for (j = 0; j < 3; j++) { x = (x * 1664525 + 1013904223) % 4294967296
      s += int(x / 2^28) + int(x / 2^24) % 16 + int(x / 2^20) % 16 + int(x / 2^16) % 16 }
    print s / 16 } }'
}`;
const ONES = `ones() { awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) print 1 }'; }`;
const ARANGE = `arange() { awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) printf "%d\\n", i }'; }`;

/** Return the functions that the tensors need. */
export function shellFunctions(tensors) {
  const kinds = new Set(tensors.map((tensor) => tensor.kind));
  return [kinds.has("normal") && NORMAL, kinds.has("ones") && ONES, kinds.has("arange") && ARANGE].filter(Boolean);
}

/** Return the command that prints the numbers of a tensor, one a line. */
export function numbersCommand({ kind, count, seed, data }) {
  if (kind === "normal") return `normal ${count} ${seed}`;
  if (kind === "values") return `printf '%s\\n' ${data.map(Number).join(" ")}`;
  return `${kind} ${count}`;
}
