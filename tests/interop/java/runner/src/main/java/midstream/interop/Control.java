package midstream.interop;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.Map;

/** The harness's side door: the upstream, the proxy, the server. */
final class Control {
    private static final Duration TIME = Duration.ofSeconds(30);
    private final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private final Gson gson = new Gson();
    private final String address;

    Control(String address) {
        this.address = address;
    }

    JsonObject post(String path, Map<String, ?> body) {
        HttpRequest request = HttpRequest.newBuilder(URI.create(address + path))
                .timeout(TIME)
                .header("content-type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(gson.toJson(body)))
                .build();
        try {
            HttpResponse<String> response = http.send(request, HttpResponse.BodyHandlers.ofString());
            Checks.equal(response.statusCode(), 200, "control " + path + " " + body + ": " + response.body());
            return gson.fromJson(response.body(), JsonObject.class);
        } catch (IOException error) {
            throw new AssertionError("control " + path + ": " + error, error);
        } catch (InterruptedException interrupt) {
            throw new AssertionError("control " + path + ": the time was over", interrupt);
        }
    }

    JsonObject post(String path) {
        return post(path, Map.of());
    }

    JsonObject upstream(String action, String runId) {
        return post("/upstream/" + action, Map.of("run_id", runId));
    }

    void reached(String runId, String gate) {
        post("/upstream/reached", Map.of("run_id", runId, "gate", gate));
    }

    void open(String runId, String... gates) {
        for (String gate : gates) {
            post("/upstream/open", Map.of("run_id", runId, "gate", gate));
        }
    }

    /** That the upstream saw so many requests of a run, and none of them is open any more. */
    JsonObject expectClosed(String runId, int requests) {
        JsonObject seen = upstream("closed", runId);
        Checks.equal(seen.get("requests").getAsInt() + " / " + seen.get("open").getAsInt(), requests + " / 0",
                "requests and open ones upstream");
        return seen;
    }

    void expectRequests(String runId, int requests) {
        Checks.equal(upstream("see", runId).get("requests").getAsInt(), requests, "requests upstream");
    }

    /** How many connections were lost. */
    int cut() {
        return post("/proxy/cut").get("connections").getAsInt();
    }
}
