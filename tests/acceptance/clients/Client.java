// What java.net.http.HttpClient does by itself: it offers HTTP/2 (h2c) with each request of a new connection.
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

public class Client {
    static final String ADD = "{\"args\":[5]}";

    public static void main(String[] arguments) throws Exception {
        String base = arguments[0];
        HttpClient client = HttpClient.newHttpClient();
        byte[] large = new byte[300_000];
        ask(client, "POST", base + "/rpc/Counter/java/add", BodyPublishers.ofString(ADD));
        ask(client, "POST", base + "/rpc/Counter/java/add", chunks(ADD.getBytes()));
        ask(client, "POST", base + "/objects/Counter/java/size", BodyPublishers.ofByteArray(large));
        ask(client, "POST", base + "/objects/Counter/java/size", chunks(large));
        ask(client, "PUT", base + "/objects/Counter/java/size", BodyPublishers.noBody());
        ask(client, "POST", base + "/admin/objects/Counter/java/pause", BodyPublishers.ofString("{}"));
        ask(client, "POST", base + "/admin/objects/Counter/java/resume", BodyPublishers.ofString("{}"));
        ask(client, "GET", base + "/livez", BodyPublishers.noBody());
        for (int n = 0; n < 3; n++) { // each on a connection of its own, each with an offer
            ask(HttpClient.newHttpClient(), "POST", base + "/rpc/Counter/java/add", chunks(ADD.getBytes()));
        }
        HttpClient modest = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        ask(modest, "POST", base + "/rpc/Counter/java/add", BodyPublishers.ofString(ADD));
        CompletableFuture<String> heard = new CompletableFuture<>();
        WebSocket socket = client.newWebSocketBuilder()
            .buildAsync(URI.create(base.replace("http", "ws") + "/objects/Counter/java/talk"), new WebSocket.Listener() {
                @Override
                public CompletionStage<?> onText(WebSocket from, CharSequence text, boolean last) {
                    heard.complete(text.toString());
                    return null;
                }
            }).get(30, TimeUnit.SECONDS);
        socket.sendText("hello", true);
        System.out.println("WebSocket " + heard.get(30, TimeUnit.SECONDS));
        socket.abort();
        System.exit(0);
    }

    static BodyPublisher chunks(byte[] body) {
        return BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
    }

    static void ask(HttpClient client, String method, String url, BodyPublisher body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(url)).method(method, body).build();
        var answer = client.send(request, BodyHandlers.ofString());
        System.out.println(method + " " + answer.statusCode() + " " + answer.body());
    }
}
