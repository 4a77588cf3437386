// Rotate two tokens with libcurl:
// g++ -std=c++20 rope.cpp -lcurl -o rope && ./rope [http://127.0.0.1:8000]

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <strings.h>

#include <curl/curl.h>

// q is [batch, sequence, heads, head_dim]
const std::string header = R"({"inputs": [
  {"name": "q", "shape": [1, 2, 1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}},
  {"name": "positions", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}],
 "outputs": [{"name": "q", "parameters": {"binary_data": true}}]})";
const float q[] = {0, 1, 2, 3, 4, 5, 6, 7};
const int64_t positions[] = {0, 1};
const float expected[] = {0, 1, 2, 3, -2.8876166f, 4.9297514f, 6.607698f, 7.0496492f};
const std::string length_header = "Inference-Header-Content-Length: ";

// the protocol is little-endian, so these arrays can be sent without conversion
static_assert(std::endian::native == std::endian::little);

struct Response {
    std::string body;
    size_t json_length = 0;
};

size_t on_header(char* line, size_t, size_t size, void* response) {
    if (strncasecmp(line, length_header.c_str(), length_header.size()) == 0)
        static_cast<Response*>(response)->json_length = std::strtoul(line + length_header.size(), nullptr, 10);
    return size;
}

size_t on_body(char* chunk, size_t, size_t size, void* response) {  // called for every chunk
    static_cast<Response*>(response)->body.append(chunk, size);
    return size;
}

int fail(const std::string& message) {
    std::cerr << message << '\n';
    return 1;
}

int main(int count, char** arguments) {
    std::string url = count > 1 ? arguments[1] : "http://127.0.0.1:8000";
    std::string body = header;
    body.append(reinterpret_cast<const char*>(q), sizeof q);
    body.append(reinterpret_cast<const char*>(positions), sizeof positions);

    Response response;
    CURL* curl = curl_easy_init();
    auto headers = curl_slist_append(nullptr, (length_header + std::to_string(header.size())).c_str());
    headers = curl_slist_append(headers, "Content-Type: application/octet-stream");
    curl_easy_setopt(curl, CURLOPT_URL, (url + "/v2/models/rope/infer").c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.data());  // not copied; may contain zeros
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.size()));
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &response);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &response);
    CURLcode code = curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);

    if (code != CURLE_OK) return fail(curl_easy_strerror(code));
    if (status != 200) return fail(std::to_string(status) + ": " + response.body);  // {"error": "..."}
    // one output was requested, so its numbers are everything after the JSON
    if (response.json_length == 0 || response.body.size() != response.json_length + sizeof expected)
        return fail("unexpected response: " + response.body);
    float rotated[8];
    std::memcpy(rotated, response.body.data() + response.json_length, sizeof rotated);  // may be unaligned

    std::cout.precision(8);
    std::cout << response.body.substr(0, response.json_length) << "\nrotated";
    bool right = true;
    for (int i = 0; i < 8; i++) {
        std::cout << ' ' << rotated[i];
        right = right && std::abs(rotated[i] - expected[i]) < 1e-5f;
    }
    std::cout << '\n';
    return right ? 0 : fail("these are not the numbers expected");
}
