// Attention of two tokens over /v1, in safetensors, with libcurl:
// g++ -std=c++20 attention.cpp -lcurl -o attention && ./attention [http://127.0.0.1:8000]

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include <curl/curl.h>

// q, k and v are [batch, sequence, heads, head_dim]
const std::string header = R"({"__metadata__": {"params": "{\"rope\": {\"theta\": 10000.0}, \"return_lse\": true}"},
 "q": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [0, 32]},
 "k": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [32, 64]},
 "v": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [64, 96]},
 "positions": {"dtype": "I64", "shape": [2], "data_offsets": [96, 112]}})";
const float q[] = {0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75};
const float v[] = {0, 1, 2, 3, 4, 5, 6, 7};
const int64_t positions[] = {0, 1};
const std::vector<float> expected_out = {0, 1, 2, 3, 3.7503535f, 4.7503535f, 5.7503535f, 6.7503535f};
const std::vector<float> expected_lse = {0.4375f, 4.0019443f};

// the format is little-endian, so these arrays can be sent without conversion
static_assert(std::endian::native == std::endian::little);

size_t on_body(char* chunk, size_t, size_t size, void* body) {  // called for every chunk
    static_cast<std::string*>(body)->append(chunk, size);
    return size;
}

int fail(const std::string& message) {
    std::cerr << message << '\n';
    return 1;
}

// Return a float32 tensor of a safetensors message; empty if there is none of this name.
std::vector<float> tensor(const std::string& body, const std::string& name) {
    uint64_t length = 0;
    if (body.size() < sizeof length) return {};
    std::memcpy(&length, body.data(), sizeof length);
    if (length > body.size() - sizeof length) return {};
    // a parser of JSON is the better choice in a program
    const std::string json = body.substr(sizeof length, length), offsets = "\"data_offsets\":[";
    size_t at = json.find('"' + name + "\":{");
    if (at != std::string::npos) at = json.find(offsets, at);
    unsigned long first = 0, end = 0;
    if (at == std::string::npos || std::sscanf(json.c_str() + at + offsets.size(), "%lu,%lu", &first, &end) != 2)
        return {};
    if (first > end || end > body.size() - sizeof length - length) return {};
    std::vector<float> numbers((end - first) / sizeof(float));
    std::memcpy(numbers.data(), body.data() + sizeof length + length + first, end - first);  // may be unaligned
    return numbers;
}

bool check(const std::string& body, const std::string& name, const std::vector<float>& expected) {
    const std::vector<float> numbers = tensor(body, name);
    bool right = numbers.size() == expected.size();
    std::cout << name;
    for (size_t i = 0; i < numbers.size(); i++) {
        std::cout << ' ' << numbers[i];
        right = right && std::abs(numbers[i] - expected[i]) < 1e-5f;
    }
    std::cout << '\n';
    return right;
}

int main(int count, char** arguments) {
    std::string url = count > 1 ? arguments[1] : "http://127.0.0.1:8000";
    // safetensors: the length of the header in 8 bytes, the header as JSON, the tensors
    const uint64_t length = header.size();
    std::string body(reinterpret_cast<const char*>(&length), sizeof length);
    body += header;
    for (const float* part : {q, q, v}) body.append(reinterpret_cast<const char*>(part), sizeof q);
    body.append(reinterpret_cast<const char*>(positions), sizeof positions);

    std::string response;
    CURL* curl = curl_easy_init();
    auto headers = curl_slist_append(nullptr, "Content-Type: application/x-safetensors");
    curl_easy_setopt(curl, CURLOPT_URL, (url + "/v1/attention").c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.data());  // not copied; may contain zeros
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.size()));
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &response);
    CURLcode code = curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);

    if (code != CURLE_OK) return fail(curl_easy_strerror(code));
    // {"code": "shape", "detail": "what is wrong", ...}; with 429 and 503 a Retry-After in seconds
    if (status != 200) return fail(std::to_string(status) + ": " + response);
    std::cout.precision(8);
    bool right = check(response, "out", expected_out);
    right = check(response, "lse", expected_lse) && right;
    return right ? 0 : fail("these are not the numbers expected");
}
