// The request of the Try view with C++ and libcurl.

export const file = "request.cpp";
export const run = "g++ -std=c++20 request.cpp -lcurl -o request && ./request";

const NORMAL = `
// close to standard normal numbers, exact in each dtype
std::vector<double> normal(size_t count, uint32_t x) {
    std::vector<double> numbers(count);
    for (double& number : numbers) {
        int sum = -90;
        for (int j = 0; j < 3; j++) {
            x = x * 1664525 + 1013904223;
            sum += int(x >> 28) + int(x >> 24 & 15) + int(x >> 20 & 15) + int(x >> 16 & 15);
        }
        number = sum / 16.0;
    }
    return numbers;
}
`;
const ARANGE = `
std::vector<double> arange(size_t count) {
    std::vector<double> numbers(count);
    for (size_t i = 0; i < count; i++) numbers[i] = double(i);
    return numbers;
}
`;
const PUT = `
template <class T> void put(std::string& body, T number) {  // this machine is little-endian
    body.append(reinterpret_cast<const char*>(&number), sizeof number);
}
`;
const GET = `
template <class T> T get(const char* bytes) {
    T number;
    std::memcpy(&number, bytes, sizeof number);
    return number;
}

double narrow(int bits, int fraction, int bias) {  // float16 and bfloat16; not for infinity and NaN
    int e = (bits & 0x7fff) >> fraction, f = bits & ((1 << fraction) - 1);
    double v = std::ldexp(f + (e ? 1 << fraction : 0), std::max(e, 1) - bias - fraction);
    return bits & 0x8000 ? -v : v;
}
`;
const FLOAT16 = `
uint16_t half(double v) {  // the upper bits of float32: all that these numbers need
    uint32_t bits = std::bit_cast<uint32_t>(float(v));
    return v == 0 ? 0 : (bits >> 16 & 0x8000) | (((bits & 0x7fffffff) >> 13) - (112 << 10));
}
`;
const WRITE = {
  float32: "float(v)", float64: "v", int64: "int64_t(v)", int32: "int32_t(v)", bool: "v != 0",
  bfloat16: "uint16_t(std::bit_cast<uint32_t>(float(v)) >> 16)", float16: "half(v)",
};
const READ = `    // 8 bytes with the length of the header, the header, the numbers
    size_t size = get<uint64_t>(answer.data());
    std::string header = answer.substr(8, size);
    const std::string mark = "\\":{\\"dtype\\":\\"";
    for (size_t at = 0; (at = header.find(mark, at)) != std::string::npos; at++) {
        size_t name = header.rfind('"', at - 1) + 1, dtype = at + mark.size();
        size_t shape = header.find('[', dtype), offsets = header.find('[', shape + 1);
        std::string type = header.substr(dtype, header.find('"', dtype) - dtype);
        const char* bytes = answer.data() + 8 + size + std::stoul(header.substr(offsets + 1));
        const char* end = answer.data() + 8 + size + std::stoul(header.substr(header.find(',', offsets) + 1));
        int width = type == "F32" || type == "I32" ? 4 : type == "F64" || type == "I64" ? 8 : type == "BOOL" ? 1 : 2;
        std::cout << header.substr(name, at - name) << ' ' << header.substr(shape, header.find(']', shape) + 1 - shape);
        for (int i = 0; i < 8 && bytes < end; i++, bytes += width) {
            std::cout << ' ';
            if (type == "F32") std::cout << get<float>(bytes);
            else if (type == "F64") std::cout << get<double>(bytes);
            else if (type == "I64") std::cout << get<int64_t>(bytes);
            else if (type == "I32") std::cout << get<int32_t>(bytes);
            else if (type == "BOOL") std::cout << int(*bytes);
            else std::cout << narrow(get<uint16_t>(bytes), type == "F16" ? 10 : 7, type == "F16" ? 15 : 127);
        }
        std::cout << '\\n';
    }`;

// A raw text, or an escaped one where it has the end of a raw one.
const literal = (text) => (text.includes(')"') ? JSON.stringify(text) : `R"(${text})"`);

function numbers({ kind, count, seed, data }) {
  if (kind === "normal") return `normal(${count}, ${seed}u)`;
  if (kind === "ones") return `std::vector<double>(${count}, 1.0)`;
  return kind === "arange" ? `arange(${count})` : `std::vector<double>{${data.map(Number).join(", ")}}`;
}

/** Return the program. */
export function code(request) {
  const { method, url, route, tensors, params, hasBody, auth, needsFile, header, paramsHeader } = request;
  const asTensors = tensors.length > 0 && route.takesSafetensors;
  const generated = asTensors && !needsFile;
  const reads = asTensors && route.givesSafetensors;
  const includes = ["iostream", "string"];
  if (generated) includes.push("bit", "cstdint", "vector");
  if (reads) includes.push("algorithm", "cmath", "cstdint", "cstring");
  if (asTensors && needsFile) includes.push("fstream", "iterator");
  if (auth) includes.push("cstdlib");
  const kinds = generated ? new Set(tensors.map(({ kind }) => kind)) : new Set();
  const functions = [generated && PUT, kinds.has("normal") && NORMAL, kinds.has("arange") && ARANGE, generated && tensors.some(({ dtype }) => dtype === "float16") && FLOAT16, reads && GET].filter(Boolean).join("");
  const main = [];
  if (generated) {
    main.push(`std::string description = ${literal(header)};`, "std::string body;", "put(body, uint64_t(description.size()));", "body += description;");
    for (const tensor of tensors) main.push(`for (double v : ${numbers(tensor)}) put(body, ${WRITE[tensor.dtype]});  // ${tensor.name}`);
  } else if (asTensors) {
    main.push('std::ifstream file("request.safetensors", std::ios::binary);', "std::string body((std::istreambuf_iterator<char>(file)), {});");
  } else if (hasBody) {
    main.push(`std::string body = ${literal(JSON.stringify(params))};`);
  }
  main.push("curl_slist* headers = nullptr;");
  const add = (text) => main.push(`headers = curl_slist_append(headers, ${text});`);
  if (auth) add('(std::string("Authorization: Bearer ") + std::getenv("ROPE_API_KEY")).c_str()');
  if (hasBody) add(`"Content-Type: application/${asTensors ? "x-safetensors" : "json"}"`);
  if (asTensors) add(`"Accept: application/${reads ? "x-safetensors" : "json"}"`);
  if (generated && paramsHeader) add(literal(`X-Rope-Params: ${paramsHeader}`));
  main.push("std::string answer;", "long status = 0;", "CURL* curl = curl_easy_init();", `curl_easy_setopt(curl, CURLOPT_URL, ${JSON.stringify(url)});`, `curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, ${JSON.stringify(method)});`, "curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);");
  if (hasBody) main.push("curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.data());", "curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.size()));");
  main.push("curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);", "curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);", "CURLcode code = curl_easy_perform(curl);", "curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);", "curl_slist_free_all(headers);", "curl_easy_cleanup(curl);",
    "if (code != CURLE_OK || status >= 300) {", "    std::cerr << curl_easy_strerror(code) << ' ' << status << ' ' << answer << '\\n';  // {\"code\": ..., \"detail\": ...}", "    return 1;", "}");
  const print = reads ? `    std::cout.precision(9);\n${READ}` : "    std::cout << answer.substr(0, 600) << '\\n';";
  return `${[...new Set(includes)].sort().map((name) => `#include <${name}>`).join("\n")}

#include <curl/curl.h>

size_t on_body(char* chunk, size_t, size_t size, void* answer) {
    static_cast<std::string*>(answer)->append(chunk, size);
    return size;
}
${functions}
int main() {
${main.map((line) => `    ${line}`).join("\n")}
${print}
}
`;
}
