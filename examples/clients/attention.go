// Attention of two tokens over /v1, in safetensors, with net/http: go run attention.go [http://127.0.0.1:8000]
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
)

// q, k and v are [batch, sequence, heads, head_dim]
const header = `{"__metadata__": {"params": "{\"rope\": {\"theta\": 10000.0}, \"return_lse\": true}"},
	"q": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [0, 32]},
	"k": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [32, 64]},
	"v": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [64, 96]},
	"positions": {"dtype": "I64", "shape": [2], "data_offsets": [96, 112]}}`

// by default a client requests gzip, which is slow and hardly makes tensors smaller
var client = &http.Client{Transport: &http.Transport{DisableCompression: true}}

var expected = map[string][]float32{
	"out": {0, 1, 2, 3, 3.7503535, 4.7503535, 5.7503535, 6.7503535},
	"lse": {0.4375, 4.0019443},
}

func main() {
	log.SetFlags(0)
	url := "http://127.0.0.1:8000"
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	q := []float32{0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75}
	v := []float32{0, 1, 2, 3, 4, 5, 6, 7}
	tensors, err := attention(url, q, q, v, []int64{0, 1})
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"out", "lse"} {
		numbers := tensors[name]
		fmt.Println(name, numbers)
		for i, value := range expected[name] {
			if len(numbers) != len(expected[name]) || !(math.Abs(float64(numbers[i]-value)) < 1e-5) {
				log.Fatal("these are not the numbers expected: ", expected[name])
			}
		}
	}
}

func attention(url string, q, k, v []float32, positions []int64) (map[string][]float32, error) {
	// safetensors: the length of the header in 8 bytes, the header as JSON, the tensors
	body := new(bytes.Buffer)
	for _, part := range []any{uint64(len(header)), []byte(header), q, k, v, positions} {
		binary.Write(body, binary.LittleEndian, part)
	}
	response, err := client.Post(url+"/v1/attention", "application/x-safetensors", body)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body) // one Read may return less
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		// {"code": "shape", "detail": "what is wrong", ...}; with 429 and 503 a Retry-After in seconds
		return nil, fmt.Errorf("%s: %s", response.Status, data)
	}

	if len(data) < 8 || binary.LittleEndian.Uint64(data) > uint64(len(data)-8) {
		return nil, fmt.Errorf("not safetensors: %s", data)
	}
	start := 8 + binary.LittleEndian.Uint64(data)
	var entries map[string]struct {
		DataOffsets [2]uint64 `json:"data_offsets"`
	}
	if err := json.Unmarshal(data[8:start], &entries); err != nil {
		return nil, err
	}
	tensors := map[string][]float32{}
	for _, name := range []string{"out", "lse"} {
		first, end := entries[name].DataOffsets[0], entries[name].DataOffsets[1]
		tensors[name] = make([]float32, (end-first)/4)
		part := bytes.NewReader(data[start+first : start+end])
		if err := binary.Read(part, binary.LittleEndian, tensors[name]); err != nil {
			return nil, err
		}
	}
	return tensors, nil
}
