// The request of the Try view with Go's net/http.

export const file = "request.go";
export const run = "go run request.go";

const NORMAL = `
// normal returns numbers that are close to standard normal ones, and exact in each dtype.
func normal(count int, seed uint32) []float64 {
	x, numbers := seed, make([]float64, count)
	for i := range numbers {
		sum := -90
		for j := 0; j < 3; j++ {
			x = x*1664525 + 1013904223
			sum += int(x>>28 + x>>24&15 + x>>20&15 + x>>16&15)
		}
		numbers[i] = float64(sum) / 16
	}
	return numbers
}
`;
const ONES = `
func ones(count int) []float64 {
	numbers := make([]float64, count)
	for i := range numbers {
		numbers[i] = 1
	}
	return numbers
}
`;
const ARANGE = `
func arange(count int) []float64 {
	numbers := make([]float64, count)
	for i := range numbers {
		numbers[i] = float64(i)
	}
	return numbers
}
`;
const WRITE = {
  float32: "binary.LittleEndian.AppendUint32(body, math.Float32bits(float32(v)))",
  float64: "binary.LittleEndian.AppendUint64(body, math.Float64bits(v))",
  int64: "binary.LittleEndian.AppendUint64(body, uint64(int64(v)))",
  int32: "binary.LittleEndian.AppendUint32(body, uint32(int32(v)))",
  bool: "append(body, byte(v))",
  bfloat16: "binary.LittleEndian.AppendUint16(body, uint16(math.Float32bits(float32(v))>>16))",
  float16: "binary.LittleEndian.AppendUint16(body, half(v))",
};
const FLOAT16 = `
func half(v float64) uint16 { // the upper bits of float32: all that these numbers need
	bits := math.Float32bits(float32(v))
	if v == 0 {
		return 0
	}
	return uint16(bits>>16&0x8000 | (bits&0x7fffffff>>13 - 112<<10))
}
`;
const READ = `	size := binary.LittleEndian.Uint64(data) // of the header; the numbers follow it
	var tensors map[string]struct {
		Dtype       string
		Shape       []int
		DataOffsets []int \`json:"data_offsets"\`
	}
	if err := json.Unmarshal(data[8:8+size], &tensors); err != nil {
		log.Fatal(err)
	}
	for name, tensor := range tensors {
		if name == "__metadata__" {
			continue
		}
		fmt.Print(name, " ", tensor.Shape)
		numbers := data[8+int(size)+tensor.DataOffsets[0] : 8+int(size)+tensor.DataOffsets[1]]
		for i := 0; i < 8 && len(numbers) > 0; i++ {
			switch tensor.Dtype {
			case "F32":
				fmt.Print(" ", math.Float32frombits(binary.LittleEndian.Uint32(numbers)))
				numbers = numbers[4:]
			case "F64":
				fmt.Print(" ", math.Float64frombits(binary.LittleEndian.Uint64(numbers)))
				numbers = numbers[8:]
			case "I64":
				fmt.Print(" ", int64(binary.LittleEndian.Uint64(numbers)))
				numbers = numbers[8:]
			case "BF16":
				fmt.Print(" ", math.Float32frombits(uint32(binary.LittleEndian.Uint16(numbers))<<16))
				numbers = numbers[2:]
			case "F16":
				bits := binary.LittleEndian.Uint16(numbers)
				v := math.Ldexp(float64(bits&1023), -24)
				if e := int(bits >> 10 & 31); e > 0 {
					v = math.Ldexp(float64(bits&1023+1024), e-25)
				}
				fmt.Print(" ", math.Copysign(v, float64(int16(bits)))) // not for infinity and NaN
				numbers = numbers[2:]
			}
		}
		fmt.Println()
	}
`;
const FUNCTIONS = { normal: NORMAL, ones: ONES, arange: ARANGE };

// A text in backquotes where Go allows it.
const literal = (text) => (/[`\r]/.test(text) ? JSON.stringify(text) : `\`${text}\``);

function numbers({ kind, count, seed, data }) {
  if (kind === "values") return `[]float64{${data.map(Number).join(", ")}}`;
  return kind === "normal" ? `normal(${count}, ${seed})` : `${kind}(${count})`;
}

/** Return the program. */
export function code(request) {
  const { method, url, route, tensors, params, hasBody, auth, needsFile, header, paramsHeader } = request;
  const asTensors = tensors.length > 0 && route.takesSafetensors;
  const generated = asTensors && !needsFile;
  const reads = asTensors && route.givesSafetensors;
  const imports = new Set(["fmt", "io", "log", "net/http"]);
  if (hasBody) imports.add("bytes");
  if (auth || (asTensors && needsFile)) imports.add("os");
  if (generated || reads) ["encoding/binary"].forEach((name) => imports.add(name));
  if (reads) ["encoding/json", "math"].forEach((name) => imports.add(name));
  if (generated && tensors.some(({ dtype }) => /float/.test(dtype))) imports.add("math");
  const main = [];
  if (generated) {
    main.push(`	header := ${literal(header)}`, "	body := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))", "	body = append(body, header...)");
    for (const tensor of tensors) main.push(`	for _, v := range ${numbers(tensor)} { // ${tensor.name}`, `		body = ${WRITE[tensor.dtype]}`, "	}");
  } else if (asTensors) {
    main.push('	body, err := os.ReadFile("request.safetensors")', "	if err != nil {", "		log.Fatal(err)", "	}");
  } else if (hasBody) {
    main.push(`	body := []byte(${literal(JSON.stringify(params))})`);
  }
  main.push(`	request, err := http.NewRequest(${JSON.stringify(method)}, ${JSON.stringify(url)}, ${hasBody ? "bytes.NewReader(body)" : "nil"})`, "	if err != nil {", "		log.Fatal(err)", "	}");
  if (auth) main.push('	request.Header.Set("Authorization", "Bearer "+os.Getenv("ROPE_API_KEY"))');
  if (hasBody) main.push(`	request.Header.Set("Content-Type", "application/${asTensors ? "x-safetensors" : "json"}")`);
  if (asTensors) main.push(`	request.Header.Set("Accept", "application/${reads ? "x-safetensors" : "json"}")`);
  if (generated && paramsHeader) main.push(`	request.Header.Set("X-Rope-Params", ${literal(paramsHeader)})`);
  main.push("	response, err := http.DefaultClient.Do(request)", "	if err != nil {", "		log.Fatal(err)", "	}", "	defer response.Body.Close()",
    "	data, err := io.ReadAll(response.Body)", "	if err != nil || response.StatusCode >= 300 {", "		log.Fatal(response.Status, err, string(data)) // {\"code\": ..., \"detail\": ...}", "	}");
  main.push(reads ? READ.trimEnd() : "	fmt.Printf(\"%.600s\\n\", data)");
  const kinds = generated ? new Set(tensors.map(({ kind }) => kind)) : new Set();
  const functions = Object.entries(FUNCTIONS).filter(([kind]) => kinds.has(kind)).map(([, text]) => text).join("");
  const half = generated && tensors.some(({ dtype }) => dtype === "float16") ? FLOAT16 : "";
  return `package main

import (
${[...imports].sort().map((name) => `	"${name}"`).join("\n")}
)
${functions}${half}
func main() {
${main.join("\n")}
}
`;
}
