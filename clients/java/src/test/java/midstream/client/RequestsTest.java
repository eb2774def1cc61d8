package midstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.UUID;
import midstream.v1.DetachPolicy;
import midstream.v1.GenerateRequest;
import midstream.v1.ListRunsResponse;
import midstream.v1.Run;
import org.junit.jupiter.api.Assertions;
import org.junit.jupiter.api.Test;

class RequestsTest {
    private static GenerateRequest request(GenerateOptions options) {
        return options.toRequest("m", List.of(Messages.user("hi")));
    }

    /** Ids are UUIDv7 of now. */
    @Test
    void aRunIdIsATimeOrderedUuid() {
        long before = System.currentTimeMillis();
        UUID id = UUID.fromString(RunIds.next());
        long after = System.currentTimeMillis();

        assertEquals("7 2", id.version() + " " + id.variant());
        long milliseconds = id.getMostSignificantBits() >>> 16;
        assertTrue(before <= milliseconds && milliseconds <= after, id.toString());
        assertNotEquals(RunIds.next(), RunIds.next());
    }

    /** A lost connection can be resumed for 10 s, unless the caller wants it otherwise. */
    @Test
    void theDefaultIsAGraceOfTenSeconds() {
        GenerateRequest standard = request(GenerateOptions.defaults());
        assertEquals(DetachPolicy.Action.ACTION_GRACE, standard.getOnDetach().getAction());
        assertEquals(Duration.ofSeconds(10), GenerateOptions.resumeTime(standard));

        GenerateRequest other = request(GenerateOptions.defaults().onDetach(Duration.ofMillis(2_500)));
        assertEquals(Duration.ofMillis(2_500), GenerateOptions.resumeTime(other));
        GenerateRequest without =
                request(GenerateOptions.defaults().onDetach(DetachPolicy.Action.ACTION_CONTINUE));
        assertEquals(Duration.ofSeconds(10), GenerateOptions.resumeTime(without));
    }

    /** The system's message comes first, the caller's id is kept, and options are not shared. */
    @Test
    void optionsMakeTheRequest() {
        GenerateOptions options = GenerateOptions.defaults().runId("mine").system("Be brief.");

        GenerateRequest request = request(options.conversation("c"));

        assertEquals("mine m c", String.join(" ", request.getRunId(), request.getModel(), request.getConversationId()));
        assertEquals(List.of(Messages.system("Be brief."), Messages.user("hi")), request.getMessagesList());
        assertEquals("", request(options).getConversationId());
        assertNotEquals(request(GenerateOptions.defaults()).getRunId(), request(GenerateOptions.defaults()).getRunId());
    }

    /** All pages are read, an empty one between them too, and none twice. */
    @Test
    void pagesAreReadToTheLast() {
        List<ListRunsResponse> pages = List.of(page("1", "a", "b"), page("2"), page("", "c"));

        RunPages runs = new RunPages(token -> pages.get(token.isEmpty() ? 0 : Integer.parseInt(token)));

        StringBuilder ids = new StringBuilder();
        runs.forEachRemaining(run -> ids.append(run.getRunId()));
        assertEquals("abc", ids.toString());
        Assertions.assertThrows(NoSuchElementException.class, runs::next);
    }

    private static ListRunsResponse page(String next, String... ids) {
        ListRunsResponse.Builder page = ListRunsResponse.newBuilder().setNextPageToken(next);
        for (String id : ids) {
            page.addRuns(Run.newBuilder().setRunId(id));
        }
        return page.build();
    }
}
