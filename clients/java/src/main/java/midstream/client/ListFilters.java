package midstream.client;

import java.util.Map;
import midstream.v1.ListRunsRequest;
import midstream.v1.RunState;

/** Which runs to list. Without anything: all. */
public final class ListFilters {
    private static final ListFilters NONE = new ListFilters(ListRunsRequest.getDefaultInstance());

    private final ListRunsRequest request;

    private ListFilters(ListRunsRequest request) {
        this.request = request;
    }

    /** All runs. */
    public static ListFilters none() {
        return NONE;
    }

    /** Only in this state. */
    public ListFilters state(RunState state) {
        return new ListFilters(request.toBuilder().setState(state).build());
    }

    /** Only of this conversation. */
    public ListFilters conversation(String conversationId) {
        return new ListFilters(request.toBuilder().setConversationId(conversationId).build());
    }

    /** Only children of this run. */
    public ListFilters parentRun(String runId) {
        return new ListFilters(request.toBuilder().setParentRunId(runId).build());
    }

    /** Only with all of these labels. */
    public ListFilters labels(Map<String, String> labels) {
        return new ListFilters(request.toBuilder().clearLabels().putAllLabels(labels).build());
    }

    /** Runs per call, at most 500. All pages are read either way. */
    public ListFilters pageSize(int runs) {
        return new ListFilters(request.toBuilder().setPageSize(runs).build());
    }

    ListRunsRequest toRequest(String pageToken) {
        return request.toBuilder().setPageToken(pageToken).build();
    }
}
