// A session with libcurl: three steps over one connection, in safetensors:
// g++ -std=c++20 session.cpp -lcurl -o session && ./session [http://127.0.0.1:8000]

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <stdexcept>
#include <string>

#include <curl/curl.h>

const std::string configuration = R"({"heads": 1, "head_dim": 2, "rope": {"theta": 10000}, "max_tokens": 64})";

// the format is little-endian, so arrays can be sent without conversion
static_assert(std::endian::native == std::endian::little);

size_t on_body(char* chunk, size_t, size_t size, void* body) {  // called for every chunk
    static_cast<std::string*>(body)->append(chunk, size);
    return size;
}

// Send a request over the kept connection of the handle; return the body of the answer.
std::string call(CURL* curl, const char* method, const std::string& url, const char* type, const std::string& body) {
    std::string answer;
    auto headers = curl_slist_append(nullptr, type);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.data());  // not copied; may contain zeros
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.size()));
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    const CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (code != CURLE_OK) throw std::runtime_error(curl_easy_strerror(code));
    // {"code": "session_conflict", "detail": "what is wrong", ...}; with 429 and 503 a Retry-After in seconds
    if (status >= 400) throw std::runtime_error(std::to_string(status) + ": " + answer);
    return answer;
}

// Return what follows a name in JSON. A parser of JSON is the better choice in a program.
const char* after(const std::string& json, const std::string& name) {
    const size_t at = json.find(name);
    if (at == std::string::npos) throw std::runtime_error("no " + name + " in " + json);
    return json.c_str() + at + name.size();
}

// safetensors: the length of the header in 8 bytes, the header as JSON, the tensors
std::string step(int token) {
    const std::string expected_length = std::to_string(token);
    const std::string header =
        R"({"__metadata__": {"params": "{\"layer\": 0, \"expected_generation\": 0, \"expected_length\": )" +
        expected_length + R"(}"},
 "q": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [0, 8]},
 "k": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [8, 16]},
 "v": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [16, 24]}})";  // [batch, tokens, heads, head_dim]
    const uint64_t length = header.size();
    const float q[] = {2, 0}, v[] = {token + 2.0f, token + 3.0f};
    std::string message(reinterpret_cast<const char*>(&length), sizeof length);
    message += header;
    for (const float* part : {q, q, v}) message.append(reinterpret_cast<const char*>(part), sizeof q);
    return message;
}

// Print the output of a step; return whether the numbers are right.
bool check(const std::string& answer, int number, int token) {
    uint64_t length = 0;
    if (answer.size() < sizeof length) return false;
    std::memcpy(&length, answer.data(), sizeof length);
    if (length > answer.size() - sizeof length) return false;
    const std::string json = answer.substr(sizeof length, length);
    const size_t first = sizeof length + length + std::stoul(after(after(json, "\"out\":"), "\"data_offsets\":["));
    float out[2];
    if (first + sizeof out > answer.size()) return false;
    std::memcpy(out, answer.data() + first, sizeof out);  // may be unaligned
    std::cout << "step" << number << ' ' << out[0] << ' ' << out[1] << '\n';
    // q and k rotate by one radian a token, so the product of the query and a key is 4 times the
    // cosine of their distance
    double expected = 0, total = 0;
    for (int j = 0; j <= token; j++) {
        const double weight = std::exp(4 * std::cos(token - j) / std::sqrt(2));
        expected += weight * (j + 2);
        total += weight;
    }
    expected /= total;
    return std::stoi(after(json, "\\\"length\\\":[")) == token + 1 && std::abs(out[0] - expected) < 1e-5 &&
           std::abs(out[1] - expected - 1) < 1e-5;
}

int main(int count, char** arguments) {
    const std::string url = count > 1 ? arguments[1] : "http://127.0.0.1:8000";
    const char *json = "Content-Type: application/json", *safetensors = "Content-Type: application/x-safetensors";
    CURL* curl = curl_easy_init();
    int code = 0;
    std::cout.precision(8);
    try {
        const std::string created = call(curl, "POST", url + "/v1/sessions", json, configuration);
        const std::string id = after(created, "\"id\":\"");
        const std::string session = url + "/v1/sessions/" + id.substr(0, id.find('"'));
        int number = 0;
        for (int token : {0, 1, 2, 2})  // the last step again, as after a lost answer
            if (!check(call(curl, "POST", session + "/step", safetensors, step(token)), number++, token))
                throw std::runtime_error("these are not the numbers expected");
        call(curl, "DELETE", session, json, "");
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        code = 1;
    }
    curl_easy_cleanup(curl);
    return code;
}
