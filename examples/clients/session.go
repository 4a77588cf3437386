// A session: created over HTTP, three steps over a WebSocket: go run session.go [http://127.0.0.1:8000]
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"os"
	"strings"
)

const configuration = `{"heads": 1, "head_dim": 2, "rope": {"theta": 10000}, "max_tokens": 64}`

// safetensors: q, k and v are [batch, tokens, heads, head_dim]
const header = `{"__metadata__": {"params": %q},
	"q": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [0, 8]},
	"k": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [8, 16]},
	"v": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [16, 24]}}`

func main() {
	log.SetFlags(0)
	url := "http://127.0.0.1:8000"
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	created := send("POST", url+"/v1/sessions", configuration, nil)
	defer created.Body.Close()
	var session struct{ Id string }
	check(json.NewDecoder(created.Body).Decode(&session))
	url += "/v1/sessions/" + session.Id
	key := make([]byte, 16)
	rand.Read(key)
	opened := send("GET", url+"/stream", "", map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": base64.StdEncoding.EncodeToString(key), "Sec-WebSocket-Protocol": "rope.session.v1"})
	stream := opened.Body.(io.ReadWriteCloser) // of net/http, after status 101
	reader := bufio.NewReader(stream)

	for seq, token := range []int{0, 1, 2, 2} { // the last step again, as after a lost answer
		params := fmt.Sprintf(
			`{"op": "step", "seq": %d, "layer": 0, "expected_length": %d, "expected_generation": 0}`, seq, token)
		text := fmt.Sprintf(header, params)
		message := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
		for _, x := range []float32{2, 0, 2, 0, float32(token + 2), float32(token + 3)} { // q, k, v
			message = binary.LittleEndian.AppendUint32(message, math.Float32bits(x))
		}
		sendFrame(stream, 2, message)
		out, length := read(receive(stream, reader))
		fmt.Printf("step%d %v\n", seq, out)
		expected := attention(token)
		if length != token+1 || !(math.Abs(out[0]-expected) < 1e-5 && math.Abs(out[1]-expected-1) < 1e-5) {
			log.Fatal("these are not the numbers expected: ", expected, expected+1, ", length ", token+1)
		}
	}
	sendFrame(stream, 8, []byte{3, 232}) // close: 1000
	stream.Close()
	send("DELETE", url, "", nil).Body.Close()
}

func send(method, url, body string, headers map[string]string) *http.Response {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	check(err)
	request.Header.Set("Content-Type", "application/json")
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	check(err)
	if response.StatusCode >= 400 { // {"code": "config", "detail": "what is wrong", ...}
		text, _ := io.ReadAll(response.Body)
		log.Fatal(response.Status, ": ", string(text))
	}
	return response
}

// Send a frame: 2 is binary, 8 close, 10 pong. Frames of clients are masked.
func sendFrame(stream io.Writer, opcode byte, payload []byte) {
	frame := []byte{0x80 | opcode, 0x80 | byte(len(payload))}
	if len(payload) > 65535 {
		frame = binary.BigEndian.AppendUint64([]byte{frame[0], 0x80 | 127}, uint64(len(payload)))
	} else if len(payload) > 125 {
		frame = binary.BigEndian.AppendUint16([]byte{frame[0], 0x80 | 126}, uint16(len(payload)))
	}
	mask := make([]byte, 4)
	rand.Read(mask)
	frame = append(frame, mask...)
	for i, x := range payload {
		frame = append(frame, x^mask[i%4])
	}
	_, err := stream.Write(frame)
	check(err)
}

// Return the next message. Pings are answered on the way; text is a problem.
func receive(stream io.Writer, reader io.Reader) []byte {
	for {
		head := make([]byte, 10)
		readFull := func(bytes []byte) { _, err := io.ReadFull(reader, bytes); check(err) }
		readFull(head[8:])
		opcode, length := head[8]&15, uint64(head[9])
		if length == 126 {
			readFull(head[6:8])
			length = uint64(binary.BigEndian.Uint16(head[6:]))
		} else if length == 127 {
			readFull(head[:8])
			length = binary.BigEndian.Uint64(head)
		}
		payload := make([]byte, length)
		readFull(payload)
		if opcode == 2 {
			return payload
		} else if opcode == 9 {
			sendFrame(stream, 10, payload)
		} else { // 1: a problem document, 8: the service closes
			log.Fatalf("%s", payload)
		}
	}
}

// Return the output of a step, and the length after it.
func read(message []byte) ([]float64, int) {
	end := 8 + binary.LittleEndian.Uint64(message)
	var header struct {
		Metadata struct{ Params string } `json:"__metadata__"`
		Out      struct {
			Offsets [2]uint64 `json:"data_offsets"`
		}
	}
	check(json.Unmarshal(message[8:end], &header))
	var params struct{ Length []int }
	check(json.Unmarshal([]byte(header.Metadata.Params), &params))
	number := func(at uint64) float64 {
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(message[at:])))
	}
	start := end + header.Out.Offsets[0]
	return []float64{number(start), number(start + 4)}, params.Length[0]
}

// Compute the first number of the answer. q and k rotate by one radian a token, so the product of
// the query and a key is 4 times the cosine of their distance.
func attention(token int) float64 {
	out, total := 0.0, 0.0
	for j := 0; j <= token; j++ {
		weight := math.Exp(4 * math.Cos(float64(token-j)) / math.Sqrt(2))
		out += weight * float64(j+2)
		total += weight
	}
	return out / total
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
