// The request of the Try view with httpx, and with safetensors where it has tensors.
import { array, literal, preamble } from "./numpy.js";

export const file = "request.py";
export const run = "python request.py";

/** Return the program. */
export function code(request) {
  const { method, url, route, tensors, params, hasBody, auth, needsFile } = request;
  const { imports, functions } = preamble(request);
  const headers = auth ? ['"Authorization": f"Bearer {os.environ[\'ROPE_API_KEY\']}"'] : [];
  const standard = [...(auth ? ["import os"] : [])];
  const start = `httpx.request(\n    ${JSON.stringify(method)},\n    ${JSON.stringify(url)},\n`;
  const print = 'print(answer.text[:600])\nanswer.raise_for_status()';
  if (!hasBody || tensors.length === 0) {
    const body = hasBody ? `    json=${literal(params)},\n` : "";
    const given = headers.length ? `    headers={${headers.join(", ")}},\n` : "";
    return [...standard, "import httpx", "", `answer = ${start}${given}${body})`, print, ""].join("\n");
  }
  if (!route.takesSafetensors) {
    const parts = tensors.map((tensor) => `${JSON.stringify(tensor.name)}: {"shape": ${literal(tensor.shape)}, "dtype": ${JSON.stringify(tensor.dtype)}, "data": ${array(tensor, needsFile)}.ravel().tolist()}`);
    return [...standard, "import httpx", ...imports, functions, `answer = ${start}    json=${literal(params)} | {\n        ${parts.join(",\n        ")},\n    },\n)`, print, ""].join("\n");
  }
  const half = tensors.some(({ dtype }) => dtype === "bfloat16");  // safetensors.numpy does not read it
  const reads = route.givesSafetensors && !half;
  headers.push('"Content-Type": "application/x-safetensors"', `"Accept": "application/${reads ? "x-safetensors" : "json"}"`);
  const names = [...(reads ? ["load"] : []), ...(needsFile ? [] : ["save"])];
  const lines = [...(needsFile ? [] : ["import json"]), ...standard, ...(needsFile ? ["from pathlib import Path"] : []), "", "import httpx", ...(needsFile ? [] : imports)];
  if (names.length) lines.push(`from safetensors.numpy import ${names.join(", ")}`);
  if (!needsFile) {
    const parts = tensors.map((tensor) => `${JSON.stringify(tensor.name)}: ${array(tensor)}`);
    lines.push(functions, `tensors = {\n    ${parts.join(",\n    ")},\n}`, `params = ${literal(params)}`);
  }
  const content = needsFile ? 'Path("request.safetensors").read_bytes()' : 'save(tensors, metadata={"params": json.dumps(params)})';
  lines.push(`answer = ${start}    headers={${headers.join(", ")}},`, `    content=${content},`, "    timeout=60,", ")");
  if (!route.givesSafetensors) return [...lines, print, ""].join("\n");
  lines.push("if answer.is_error:", "    raise SystemExit(answer.text)");
  if (reads) lines.push("for name, array in load(answer.content).items():", "    print(name, array.shape, *array.ravel()[:8])", "");
  else lines.push("for name, tensor in answer.json().items():", '    print(name, tensor["shape"], *tensor["data"][:8])', "");
  return lines.join("\n");
}
