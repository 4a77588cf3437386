// Rotate two tokens with java.net.http: java Rope.java [http://127.0.0.1:8000]

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

public class Rope {
    // q is [batch, sequence, heads, head_dim]
    static final byte[] HEADER = """
        {"inputs": [
          {"name": "q", "shape": [1, 2, 1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}},
          {"name": "positions", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}],
         "outputs": [{"name": "q", "parameters": {"binary_data": true}}]}
        """.getBytes(StandardCharsets.UTF_8);
    static final float[] EXPECTED = {0, 1, 2, 3, -2.8876166f, 4.9297514f, 6.607698f, 7.0496492f};

    public static void main(String[] args) throws Exception {
        String url = args.length > 0 ? args[0] : "http://127.0.0.1:8000";
        float[] q = {0, 1, 2, 3, 4, 5, 6, 7};
        long[] positions = {0, 1};

        // a ByteBuffer is big-endian by default
        var body = ByteBuffer.allocate(HEADER.length + 32 + 16).order(ByteOrder.LITTLE_ENDIAN);
        body.put(HEADER);
        for (float value : q) body.putFloat(value);
        for (long position : positions) body.putLong(position);

        var request = HttpRequest.newBuilder(URI.create(url + "/v2/models/rope/infer"))
            .header("Inference-Header-Content-Length", String.valueOf(HEADER.length))
            .POST(BodyPublishers.ofByteArray(body.array()))
            .build();
        // the default client offers HTTP/2; the response comes over HTTP/1.1
        var response = HttpClient.newHttpClient().send(request, BodyHandlers.ofByteArray());
        byte[] data = response.body();
        if (response.statusCode() != 200) {
            // {"error": "what is wrong"}
            fail(response.statusCode() + ": " + new String(data, StandardCharsets.UTF_8));
        }

        // one output was requested, so its numbers are everything after the JSON
        int length = (int) response.headers().firstValueAsLong("Inference-Header-Content-Length").orElseThrow();
        var numbers = ByteBuffer.wrap(data, length, data.length - length).order(ByteOrder.LITTLE_ENDIAN);
        float[] rotated = new float[numbers.remaining() / 4];
        numbers.asFloatBuffer().get(rotated);

        System.out.println(new String(data, 0, length, StandardCharsets.UTF_8));
        System.out.println("rotated " + Arrays.toString(rotated));
        for (int i = 0; i < EXPECTED.length; i++) {
            if (rotated.length != EXPECTED.length || !(Math.abs(rotated[i] - EXPECTED[i]) < 1e-5)) {
                fail("these are not the numbers expected: " + Arrays.toString(EXPECTED));
            }
        }
    }

    static void fail(String message) {
        System.err.println(message);
        System.exit(1);
    }
}
