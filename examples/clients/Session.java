// A session: created over HTTP, three steps over a WebSocket: java Session.java [http://127.0.0.1:8000]

import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

public class Session {
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final String CONFIGURATION = """
        {"heads": 1, "head_dim": 2, "rope": {"theta": 10000}, "max_tokens": 64}""";
    // safetensors: q, k and v are [batch, tokens, heads, head_dim]
    static final String HEADER = """
        {"__metadata__": {"params": "{\\"op\\": \\"step\\", \\"seq\\": %d, \\"layer\\": 0, \
        \\"expected_length\\": %d, \\"expected_generation\\": 0}"},
         "q": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [0, 8]},
         "k": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [8, 16]},
         "v": {"dtype": "F32", "shape": [1, 1, 1, 2], "data_offsets": [16, 24]}}""";

    // The answers of a stream come in the order of the messages, each in one part or several.
    static class Answers implements WebSocket.Listener {
        final BlockingQueue<Object> queue = new LinkedBlockingQueue<>(); // ByteBuffer, or the text of an error
        final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        final StringBuilder text = new StringBuilder();

        @Override
        public CompletionStage<?> onBinary(WebSocket stream, ByteBuffer part, boolean isLast) {
            while (part.hasRemaining()) bytes.write(part.get());
            if (isLast) {
                queue.add(ByteBuffer.wrap(bytes.toByteArray()).order(ByteOrder.LITTLE_ENDIAN));
                bytes.reset();
            }
            stream.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onText(WebSocket stream, CharSequence part, boolean isLast) {
            text.append(part); // {"code": "session_conflict", "detail": "what is wrong", "seq": 0, ...}
            if (isLast) queue.add(text.toString());
            stream.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket stream, int code, String reason) {
            queue.add("the stream was closed: " + code + " " + reason);
            return null;
        }

        @Override
        public void onError(WebSocket stream, Throwable error) {
            queue.add("the stream broke: " + error);
        }
    }

    public static void main(String[] args) throws Exception {
        String url = args.length > 0 ? args[0] : "http://127.0.0.1:8000";
        // a parser of JSON is the better choice in a program
        String id = find("\"id\":\"([^\"]+)\"", call("POST", url + "/v1/sessions", CONFIGURATION));
        url += "/v1/sessions/" + id;
        var answers = new Answers();
        var stream = CLIENT.newWebSocketBuilder().subprotocols("rope.session.v1")
            .buildAsync(URI.create(url.replaceFirst("http", "ws") + "/stream"), answers).join();
        int[] tokens = {0, 1, 2, 2}; // the last step again, as after a lost answer
        for (int seq = 0; seq < tokens.length; seq++) {
            int token = tokens[seq];
            byte[] header = HEADER.formatted(seq, token).getBytes(StandardCharsets.UTF_8);
            var message = ByteBuffer.allocate(8 + header.length + 24).order(ByteOrder.LITTLE_ENDIAN);
            message.putLong(header.length).put(header);
            for (float x : new float[] {2, 0, 2, 0, token + 2, token + 3}) message.putFloat(x); // q, k, v
            // of a little-endian buffer, JDK 17 sends each 8 bytes in reverse
            stream.sendBinary(ByteBuffer.wrap(message.array()), true).join();

            Object received = answers.queue.poll(30, TimeUnit.SECONDS);
            if (!(received instanceof ByteBuffer)) fail("no answer: " + received);
            var answer = (ByteBuffer) received;
            int start = 8 + (int) answer.getLong(0);
            String json = new String(answer.array(), 8, start - 8, StandardCharsets.UTF_8);
            int first = start + Integer.parseInt(find("\"out\":\\{[^}]*\"data_offsets\":\\[(\\d+)", json));
            int length = Integer.parseInt(find("length\\W+(\\d+)", json)); // "params":"{\"length\":[1],..."
            float[] out = {answer.getFloat(first), answer.getFloat(first + 4)};
            System.out.println("step" + seq + " " + out[0] + " " + out[1]);
            double expected = attention(token);
            boolean isClose = Math.abs(out[0] - expected) < 1e-5 && Math.abs(out[1] - expected - 1) < 1e-5;
            if (!isClose || length != token + 1) {
                fail("these are not the numbers expected: " + expected + ", " + (expected + 1));
            }
        }
        stream.sendClose(WebSocket.NORMAL_CLOSURE, "").join();
        call("DELETE", url, "");
    }

    static String call(String method, String url, String body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(url))
            .header("Content-Type", "application/json")
            .method(method, BodyPublishers.ofString(body)).build();
        var response = CLIENT.send(request, BodyHandlers.ofString());
        // {"code": "config", "detail": "what is wrong", ...}
        if (response.statusCode() >= 400) fail(response.statusCode() + ": " + response.body());
        return response.body();
    }

    static String find(String pattern, String text) {
        var matcher = Pattern.compile(pattern).matcher(text);
        if (!matcher.find()) fail("not in the answer: " + pattern);
        return matcher.group(1);
    }

    // q and k rotate by one radian a token, so the product of the query and a key is 4 times the
    // cosine of their distance. Return the first number of the output.
    static double attention(int token) {
        double out = 0, total = 0;
        for (int j = 0; j <= token; j++) {
            double weight = Math.exp(4 * Math.cos(token - j) / Math.sqrt(2));
            out += weight * (j + 2);
            total += weight;
        }
        return out / total;
    }

    static void fail(String message) {
        System.err.println(message);
        System.exit(1);
    }
}
