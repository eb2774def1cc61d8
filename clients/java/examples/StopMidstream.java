import midstream.client.Delta;
import midstream.client.MidstreamClient;
import midstream.client.RunStream;
import midstream.client.Runs;
import midstream.v1.Run;

/** Streams a generation, stops it midstream from a second connection, and shows what was kept. */
public class StopMidstream {
    private static final int ENOUGH = 80;

    public static void main(String[] arguments) {
        String target = System.getenv().getOrDefault("MIDSTREAM_TARGET", "127.0.0.1:50051");
        String model = System.getenv().getOrDefault("MIDSTREAM_MODEL", "local/smollm2");

        try (MidstreamClient client = MidstreamClient.connect(target);
                MidstreamClient elsewhere = MidstreamClient.connect(target);
                RunStream run = client.generate(model, "Tell me a story about a lighthouse.")) {
            boolean isStopped = false;
            for (Delta delta : run) {
                System.out.print(delta.text());
                System.out.flush();
                if (run.text().length() > ENOUGH && !isStopped) {
                    isStopped = true;
                    Run partial = elsewhere.cancel(run.runId(), "enough").getRun();
                    System.out.printf("%n[the answer to the stop: %d characters]%n", Runs.text(partial).length());
                }
            }
            Run kept = run.result();
            System.out.printf("[%s: %s, %d characters kept]%n", run.runId(), kept.getState(), Runs.text(kept).length());
        }
    }
}
