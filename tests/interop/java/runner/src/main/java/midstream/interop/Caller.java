package midstream.interop;

import java.util.List;
import midstream.v1.CancelResponse;
import midstream.v1.ListModelsResponse;
import midstream.v1.MessageView;
import midstream.v1.Run;
import midstream.v1.RunState;
import midstream.v1.WatchRunRequest;

/** The contract's methods, through a client library or through stubs. A failed one throws CallFailed. */
interface Caller extends AutoCloseable {
    /** Generate. */
    Reader start(Start start);

    /** WatchRun. */
    Reader watch(WatchRunRequest request);

    /** Cancel with the default wait. */
    CancelResponse cancel(String runId, String reason);

    /** GetRun. */
    Run get(String runId, MessageView view);

    /** GetRun when the run has ended. */
    Run getEnded(String runId);

    /** ListRuns by a label, all pages; the state may be UNSPECIFIED. */
    List<Run> list(String group, RunState state, int pageSize);

    /** DeleteRun. */
    void delete(String runId);

    /** ListModels. */
    ListModelsResponse models();

    @Override
    void close();

    /** GetRun. */
    default Run get(String runId) {
        return get(runId, MessageView.MESSAGE_VIEW_AS_STREAMED);
    }

    /** WatchRun from the start, as an observer. */
    default Reader watch(String runId) {
        return watch(WatchRunRequest.newBuilder().setRunId(runId).build());
    }

    /** WatchRun after a sequence, as an observer. */
    default Reader watchAfter(String runId, long sequence) {
        return watch(WatchRunRequest.newBuilder().setRunId(runId).setAfterSequence(sequence).build());
    }

    /** WatchRun from a snapshot, as an observer. */
    default Reader watchSnapshot(String runId) {
        return watch(WatchRunRequest.newBuilder().setRunId(runId).setFromSnapshot(true).build());
    }
}
