package midstream.client;

import java.time.Duration;
import midstream.v1.WatchRunRequest;

/** How to follow a run that exists. Without anything: from its start, as an observer. */
public final class WatchOptions {
    private static final WatchOptions NONE = new WatchOptions(WatchRunRequest.getDefaultInstance(), null);

    private final WatchRunRequest request;
    private final Duration timeout;

    private WatchOptions(WatchRunRequest request, Duration timeout) {
        this.request = request;
        this.timeout = timeout;
    }

    /** From the run's start, as an observer. */
    public static WatchOptions defaults() {
        return NONE;
    }

    /** Begin after this sequence; what came before is then missing in {@code text} until the end. */
    public WatchOptions afterSequence(long sequence) {
        return new WatchOptions(request.toBuilder().setAfterSequence(sequence).build(), timeout);
    }

    /** Begin with all so far, as one delta per part. */
    public WatchOptions fromSnapshot() {
        return new WatchOptions(request.toBuilder().setFromSnapshot(true).build(), timeout);
    }

    /** Hold a claim: leaving the stream stops the run. Without it leaving never does. */
    public WatchOptions claim() {
        return new WatchOptions(request.toBuilder().setClaim(true).build(), timeout);
    }

    /** From the start until {@code DeadlineExceeded}. */
    public WatchOptions timeout(Duration timeout) {
        return new WatchOptions(request, timeout);
    }

    /** Null is for ever. */
    Duration timeout() {
        return timeout;
    }

    WatchRunRequest toRequest(String runId) {
        return request.toBuilder().setRunId(runId).build();
    }
}
