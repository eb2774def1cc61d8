import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;
import midstream.client.Delta;
import midstream.client.MidstreamClient;
import midstream.client.RunStream;

/**
 * A web server that hands a generation on to a browser: {@code curl -N localhost:8080/?prompt=hello}. A browser that
 * goes away makes the write fail, which leaves the block, which stops the run, also upstream.
 */
public class EventSource {
    private static final int PORT = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
    private static final String MODEL = System.getenv().getOrDefault("MIDSTREAM_MODEL", "local/smollm2");

    public static void main(String[] arguments) throws IOException {
        String target = System.getenv().getOrDefault("MIDSTREAM_TARGET", "127.0.0.1:50051");
        MidstreamClient client = MidstreamClient.connect(target);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", PORT), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> answer(client, exchange));
        server.start();
        System.out.println("listening on 127.0.0.1:" + server.getAddress().getPort());
    }

    private static void answer(MidstreamClient client, HttpExchange exchange) throws IOException {
        String query = String.valueOf(exchange.getRequestURI().getRawQuery());
        String prompt = URLDecoder.decode(query.replaceFirst("^prompt=", ""), StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("content-type", "text/event-stream");
        exchange.sendResponseHeaders(200, 0);
        try (exchange; RunStream run = client.generate(MODEL, prompt); OutputStream body = exchange.getResponseBody()) {
            for (Delta delta : run) {
                String data = delta.text().replace("\n", "\ndata: ");
                body.write(("id: " + delta.sequence() + "\ndata: " + data + "\n\n").getBytes(StandardCharsets.UTF_8));
                body.flush();
            }
        }
    }
}
