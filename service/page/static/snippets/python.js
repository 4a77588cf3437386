// The request of the Try view as a call of rope_client.
import { array, literal, preamble } from "./numpy.js";

export const file = "request.py";
export const run = "python request.py";

// Calls of the client by the last part of the path.
const CALLS = ["rotate", "attention", "cos_sin", "shift", "merge", "resolve", "diagnose", "compare", "positions", "presets", "variants"];

/** Return the program, or null where the client has no single call for the route. */
export function code(request) {
  const { base, route, tensors, params, auth, needsFile } = request;
  const call = route.path === "/version" ? "version" : route.path.match(/^\/v1\/(\w+)$/)?.[1];
  if (call !== "version" && !CALLS.includes(call)) return null;
  const { imports, functions } = preamble(request);
  const given = [];
  const { builder, arguments: more, ...rest } = params;
  const named = call === "positions" ? { ...rest, ...more } : params;
  if (call === "positions") given.push(literal(builder));
  for (const tensor of tensors) given.push(`${tensor.name}=${array(tensor, needsFile)}`);
  for (const [name, value] of Object.entries(named)) given.push(`${name}=${literal(value)}`);
  const list = given.length ? `\n        ${given.join(",\n        ")},\n    ` : "";
  const key = auth ? ', api_key=os.environ["ROPE_API_KEY"]' : "";
  const lines = [...(auth ? ["import os"] : []), ...imports, "from rope_client import Client", functions];
  if (needsFile) lines.push('tensors = load_file("request.safetensors")');
  lines.push(`with Client(${JSON.stringify(base.replace(/\/$/, ""))}${key}) as client:`, `    answer = client.${call}(${list})`);
  if (tensors.length === 0 || !route.answerTensors.length || ["diagnose", "positions"].includes(call)) return [...lines, "print(answer)", ""].join("\n");
  lines.push(`for name in ${literal(route.answerTensors)}:`, "    array = getattr(answer, name)", "    if array is not None:", "        print(name, array.shape, *array.ravel()[:8])", "");
  return lines.join("\n");
}
