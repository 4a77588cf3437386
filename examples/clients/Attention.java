// Attention of two tokens over /v1, in safetensors, with java.net.http: java Attention.java [http://127.0.0.1:8000]

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.regex.Pattern;

public class Attention {
    // q, k and v are [batch, sequence, heads, head_dim]
    static final byte[] HEADER = """
        {"__metadata__": {"params": "{\\"rope\\": {\\"theta\\": 10000.0}, \\"return_lse\\": true}"},
         "q": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [0, 32]},
         "k": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [32, 64]},
         "v": {"dtype": "F32", "shape": [1, 2, 1, 4], "data_offsets": [64, 96]},
         "positions": {"dtype": "I64", "shape": [2], "data_offsets": [96, 112]}}
        """.getBytes(StandardCharsets.UTF_8);
    static final float[] EXPECTED_OUT = {0, 1, 2, 3, 3.7503535f, 4.7503535f, 5.7503535f, 6.7503535f};
    static final float[] EXPECTED_LSE = {0.4375f, 4.0019443f};

    public static void main(String[] args) throws Exception {
        String url = args.length > 0 ? args[0] : "http://127.0.0.1:8000";
        float[] q = {0, 0.25f, 0.5f, 0.75f, 1, 1.25f, 1.5f, 1.75f}, k = q, v = {0, 1, 2, 3, 4, 5, 6, 7};

        // safetensors: the length of the header in 8 bytes, the header as JSON, the tensors;
        // a ByteBuffer is big-endian by default
        var body = ByteBuffer.allocate(8 + HEADER.length + 112).order(ByteOrder.LITTLE_ENDIAN);
        body.putLong(HEADER.length).put(HEADER);
        for (float[] tensor : new float[][] {q, k, v}) for (float value : tensor) body.putFloat(value);
        for (long position : new long[] {0, 1}) body.putLong(position);

        var request = HttpRequest.newBuilder(URI.create(url + "/v1/attention"))
            .header("Content-Type", "application/x-safetensors")
            .POST(BodyPublishers.ofByteArray(body.array()))
            .build();
        // the default client offers HTTP/2; the response comes over HTTP/1.1
        var response = HttpClient.newHttpClient().send(request, BodyHandlers.ofByteArray());
        byte[] data = response.body();
        if (response.statusCode() != 200) {
            // {"code": "shape", "detail": "what is wrong", ...}; with 429 and 503 a Retry-After in seconds
            fail(response.statusCode() + ": " + new String(data, StandardCharsets.UTF_8));
        }
        check("out", data, EXPECTED_OUT);
        check("lse", data, EXPECTED_LSE);
    }

    static void check(String name, byte[] data, float[] expected) {
        float[] numbers = tensor(name, ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN));
        System.out.println(name + " " + Arrays.toString(numbers));
        for (int i = 0; i < expected.length; i++) {
            if (numbers.length != expected.length || !(Math.abs(numbers[i] - expected[i]) < 1e-5)) {
                fail("these are not the numbers expected: " + Arrays.toString(expected));
            }
        }
    }

    static float[] tensor(String name, ByteBuffer data) {
        int length = (int) data.getLong(0);
        String header = new String(data.array(), 8, length, StandardCharsets.UTF_8);
        // a parser of JSON is the better choice in a program
        var offsets = Pattern.compile("\"" + name + "\":\\{[^}]*\"data_offsets\":\\[(\\d+),(\\d+)\\]").matcher(header);
        if (!offsets.find()) fail("no tensor '" + name + "' in " + header);
        int first = Integer.parseInt(offsets.group(1)), end = Integer.parseInt(offsets.group(2));
        float[] numbers = new float[(end - first) / 4];
        for (int i = 0; i < numbers.length; i++) numbers[i] = data.getFloat(8 + length + first + 4 * i);
        return numbers;
    }

    static void fail(String message) {
        System.err.println(message);
        System.exit(1);
    }
}
