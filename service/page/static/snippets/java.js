// The request of the Try view with java.net.http, for Java 17.

export const file = "Request.java";
export const run = "java Request.java";

const NORMAL = `
    // close to standard normal numbers, exact in each dtype
    static double[] normal(int count, long seed) {
        long x = seed;
        var numbers = new double[count];
        for (int i = 0; i < count; i++) {
            long sum = -90;
            for (int j = 0; j < 3; j++) {
                x = (x * 1664525 + 1013904223) & 0xffffffffL;
                sum += (x >> 28) + (x >> 24 & 15) + (x >> 20 & 15) + (x >> 16 & 15);
            }
            numbers[i] = sum / 16.0;
        }
        return numbers;
    }
`;
const ONES = `
    static double[] ones(int count) {
        return DoubleStream.generate(() -> 1).limit(count).toArray();
    }
`;
const ARANGE = `
    static double[] arange(int count) {
        return IntStream.range(0, count).asDoubleStream().toArray();
    }
`;
const FLOAT16 = `
    static short half(double v) { // the upper bits of float32: all that these numbers need
        int bits = Float.floatToRawIntBits((float) v);
        return (short) (v == 0 ? 0 : bits >>> 16 & 0x8000 | ((bits & 0x7fffffff) >>> 13) - (112 << 10));
    }
`;
const WRITE = {
  float32: "putFloat((float) v)", float64: "putDouble(v)", int64: "putLong((long) v)", int32: "putInt((int) v)", bool: "put((byte) v)",
  bfloat16: "putShort((short) (Float.floatToRawIntBits((float) v) >>> 16))", float16: "putShort(half(v))",
};
const READ = `        // 8 bytes with the length of the header, the header, the numbers
        var bytes = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN);
        int size = (int) bytes.getLong();
        var tensors = new String(data, 8, size, StandardCharsets.UTF_8);
        var tensor = Pattern.compile("\\"(\\\\w+)\\":\\\\{\\"dtype\\":\\"(\\\\w+)\\",\\"shape\\":(\\\\[[\\\\d,]*\\\\]),\\"data_offsets\\":\\\\[(\\\\d+),(\\\\d+)\\\\]").matcher(tensors);
        while (tensor.find()) {
            System.out.print(tensor.group(1) + " " + tensor.group(3));
            bytes.position(8 + size + Integer.parseInt(tensor.group(4)));
            int end = 8 + size + Integer.parseInt(tensor.group(5));
            for (int i = 0; i < 8 && bytes.position() < end; i++) {
                System.out.print(" " + switch (tensor.group(2)) {
                    case "F32" -> bytes.getFloat();
                    case "F64" -> bytes.getDouble();
                    case "I64" -> bytes.getLong();
                    case "BF16" -> Float.intBitsToFloat(bytes.getShort() << 16);
                    case "F16" -> { // not for infinity and NaN
                        int bits = bytes.getShort(), e = bits >> 10 & 31;
                        double v = Math.scalb((double) (bits & 1023) + (e > 0 ? 1024 : 0), Math.max(e, 1) - 25);
                        yield bits < 0 ? -v : v;
                    }
                    default -> bytes.get();
                });
            }
            System.out.println();
        }`;
const FUNCTIONS = { normal: NORMAL, ones: ONES, arange: ARANGE };

function numbers({ kind, count, seed, data }) {
  if (kind === "values") return `new double[] {${data.map(Number).join(", ")}}`;
  return kind === "normal" ? `normal(${count}, ${seed}L)` : `${kind}(${count})`;
}

/** Return the program. */
export function code(request) {
  const { method, url, route, tensors, params, hasBody, auth, needsFile, header, paramsHeader, size } = request;
  const asTensors = tensors.length > 0 && route.takesSafetensors;
  const generated = asTensors && !needsFile;
  const reads = asTensors && route.givesSafetensors;
  const imports = ["java.net.URI", "java.net.http.HttpClient", "java.net.http.HttpRequest", "java.net.http.HttpRequest.BodyPublishers", "java.net.http.HttpResponse.BodyHandlers"];
  if (generated || reads) imports.push("java.nio.ByteBuffer", "java.nio.ByteOrder");
  imports.push("java.nio.charset.StandardCharsets");
  if (asTensors && needsFile) imports.push("java.nio.file.Path");
  if (reads) imports.push("java.util.regex.Pattern");
  const kinds = generated ? new Set(tensors.map(({ kind }) => kind)) : new Set();
  if (kinds.has("ones")) imports.push("java.util.stream.DoubleStream");
  if (kinds.has("arange")) imports.push("java.util.stream.IntStream");
  const main = [];
  let publisher = "BodyPublishers.noBody()";
  if (generated) {
    main.push(`var header = ${JSON.stringify(header)}.getBytes(StandardCharsets.UTF_8);`, `var body = ByteBuffer.allocate(8 + header.length + ${size}).order(ByteOrder.LITTLE_ENDIAN);`, "body.putLong(header.length).put(header);");
    for (const tensor of tensors) main.push(`for (double v : ${numbers(tensor)}) body.${WRITE[tensor.dtype]}; // ${tensor.name}`);
    publisher = "BodyPublishers.ofByteArray(body.array())";
  } else if (asTensors) {
    publisher = 'BodyPublishers.ofFile(Path.of("request.safetensors"))';
  } else if (hasBody) {
    publisher = `BodyPublishers.ofString(${JSON.stringify(JSON.stringify(params))})`;
  }
  main.push(`var request = HttpRequest.newBuilder(URI.create(${JSON.stringify(url)}))`);
  if (auth) main.push('    .header("Authorization", "Bearer " + System.getenv("ROPE_API_KEY"))');
  if (hasBody) main.push(`    .header("Content-Type", "application/${asTensors ? "x-safetensors" : "json"}")`);
  if (asTensors) main.push(`    .header("Accept", "application/${reads ? "x-safetensors" : "json"}")`);
  if (generated && paramsHeader) main.push(`    .header("X-Rope-Params", ${JSON.stringify(paramsHeader)})`);
  main.push(`    .method(${JSON.stringify(method)}, ${publisher})`, "    .build();", "var response = HttpClient.newHttpClient().send(request, BodyHandlers.ofByteArray());", "byte[] data = response.body();",
    "if (response.statusCode() >= 300) {", "    System.err.println(new String(data, StandardCharsets.UTF_8)); // {\"code\": ..., \"detail\": ...}", "    System.exit(1);", "}");
  const print = reads ? READ : "        System.out.println(new String(data, 0, Math.min(data.length, 600), StandardCharsets.UTF_8));";
  const functions = Object.entries(FUNCTIONS).filter(([kind]) => kinds.has(kind)).map(([, text]) => text).join("");
  const half = generated && tensors.some(({ dtype }) => dtype === "float16") ? FLOAT16 : "";
  return `${imports.map((name) => `import ${name};`).join("\n")}

public class Request {
    public static void main(String[] args) throws Exception {
${main.map((line) => `        ${line}`).join("\n")}
${print}
    }
${functions}${half}}
`;
}
