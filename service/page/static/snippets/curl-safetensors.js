// The request of the Try view for curl, with a safetensors body and a safetensors answer.
import { quoted, shellFunctions, numbersCommand } from "./curl.js";

export const file = "request.sh";
export const run = "sh request.sh";

// Numbers, one a line, as octal escapes of their little-endian bytes.
const FLOATS = `floats() { # bytes of float32, from which on to print: 0 all four, 2 the bytes of bfloat16
  awk -v first="$1" '{ v = $1 < 0 ? -$1 : $1; e = 127; b = 0
    if (v) { while (v >= 2) { v /= 2; e++ } while (v < 1) { v *= 2; e-- }
      b = e * 8388608 + int((v - 1) * 8388608 + 0.5) + ($1 < 0 ? 2147483648 : 0) }
    for (i = 0; i < 4; i++) { if (i >= first) printf "\\\\%03o", b % 256; b = int(b / 256) } }'
}`;
const INTEGERS = `integers() { # bytes of integers of that width
  awk -v width="$1" '{ b = $1; for (i = 0; i < width; i++) { c = b % 256; if (c < 0) c += 256
    printf "\\\\%03o", c; b = (b - c) / 256 } }'
}`;
const FORMS = { float32: "floats 0", bfloat16: "floats 2", int64: "integers 8", int32: "integers 4", bool: "integers 1" };

const READ = `# 8 bytes with the length of the header, the header, the numbers
size=$(od -An -tu8 -N8 answer.safetensors | tr -d ' ')
header=$(tail -c +9 answer.safetensors | head -c "$size")
echo "$header"
case $(echo "$header" | grep -o '"dtype":"[A-Z0-9]*"' | head -n 1) in
*F32*) form=f4 bytes=32 ;; *F64*) form=f8 bytes=64 ;; *I64*) form=d8 bytes=64 ;; *) form=x2 bytes=16 ;;
esac
tail -c +$((size + 9)) answer.safetensors | od -An -v -t$form -N$bytes`;

/** Return the script, or null where the route takes no safetensors. */
export function code(request) {
  const { method, url, tensors, auth, route, header, paramsHeader, needsFile } = request;
  if (!route.takesSafetensors) return null;
  const whole = needsFile || tensors.some((tensor) => !(tensor.dtype in FORMS));
  const lines = ["#!/bin/sh"];
  if (whole) {
    request.needsFile = true;
  } else {
    const forms = tensors.map((tensor) => FORMS[tensor.dtype].split(" ")[0]);
    lines.push(...shellFunctions(tensors), ...(forms.includes("floats") ? [FLOATS] : []), ...(forms.includes("integers") ? [INTEGERS] : []));
    lines.push(`header=${quoted(header)}`);
    const size = `printf '%s\\n' "\${#header}" | integers 8`;
    if (!forms.includes("integers")) lines.push(INTEGERS);
    lines.push("{", `  printf "$(${size})"; printf %s "$header"`);
    for (const tensor of tensors) lines.push(`  printf "$(${numbersCommand(tensor)} | ${FORMS[tensor.dtype]})" # ${tensor.name}`);
    lines.push("} >request.safetensors");
  }
  const answers = route.givesSafetensors ? "safetensors" : "json";
  const call = [
    `curl -sS -X ${method} ${quoted(url)}`, ...(auth ? ['-H "Authorization: Bearer $ROPE_API_KEY"'] : []),
    ...(paramsHeader && !whole ? [`-H ${quoted(`X-Rope-Params: ${paramsHeader}`)}`] : []),
    "-H 'Content-Type: application/x-safetensors'", `-H 'Accept: application/${answers === "json" ? "json" : "x-safetensors"}'`,
    `--data-binary @request.safetensors -o answer.${answers}`,
  ];
  lines.push(call.join(" \\\n    "));
  if (answers === "json") return [...lines, "head -c 600 answer.json", ""].join("\n");
  lines.push(READ, "");
  return lines.join("\n");
}
