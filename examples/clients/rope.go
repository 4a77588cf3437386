// Rotate two tokens with net/http: go run rope.go [http://127.0.0.1:8000]
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"os"
	"strconv"
)

// q is [batch, sequence, heads, head_dim]
const header = `{"inputs": [
	{"name": "q", "shape": [1, 2, 1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}},
	{"name": "positions", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}],
	"outputs": [{"name": "q", "parameters": {"binary_data": true}}]}`

// by default a client requests gzip, which is slow and hardly makes tensors smaller
var client = &http.Client{Transport: &http.Transport{DisableCompression: true}}

var expected = []float32{0, 1, 2, 3, -2.8876166, 4.9297514, 6.607698, 7.0496492}

func main() {
	log.SetFlags(0)
	url := "http://127.0.0.1:8000"
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	rotated, err := rotate(url, []float32{0, 1, 2, 3, 4, 5, 6, 7}, []int64{0, 1})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("rotated", rotated)
	for i := range expected {
		if len(rotated) != len(expected) || !(math.Abs(float64(rotated[i]-expected[i])) < 1e-5) {
			log.Fatal("these are not the numbers expected: ", expected)
		}
	}
}

func rotate(url string, q []float32, positions []int64) ([]float32, error) {
	body := bytes.NewBufferString(header)
	binary.Write(body, binary.LittleEndian, q)
	binary.Write(body, binary.LittleEndian, positions)
	request, err := http.NewRequest("POST", url+"/v2/models/rope/infer", body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Inference-Header-Content-Length", strconv.Itoa(len(header)))

	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body) // one Read may return less
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, data) // {"error": "what is wrong"}
	}

	length, err := strconv.Atoi(response.Header.Get("Inference-Header-Content-Length"))
	if err != nil || length > len(data) {
		return nil, fmt.Errorf("not a binary response: %s", data)
	}
	var result struct{ Outputs []struct{ Shape []int } }
	if err := json.Unmarshal(data[:length], &result); err != nil {
		return nil, err
	}
	size := 1
	for _, dim := range result.Outputs[0].Shape {
		size *= dim
	}
	rotated := make([]float32, size)
	return rotated, binary.Read(bytes.NewReader(data[length:]), binary.LittleEndian, rotated)
}
