package midstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.Code;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.Metadata;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import midstream.client.errors.ConnectionLost;
import midstream.client.errors.DeadlineExceeded;
import midstream.client.errors.Draining;
import midstream.client.errors.ErrorDetails;
import midstream.client.errors.FieldViolation;
import midstream.client.errors.InvalidRequest;
import midstream.client.errors.MidstreamClientError;
import midstream.client.errors.RunFailed;
import midstream.client.errors.RunStoreUnavailable;
import midstream.client.errors.UpstreamRateLimited;
import midstream.client.errors.UpstreamRejected;
import midstream.v1.Run;
import org.junit.jupiter.api.Test;

class StatusesTest {
    private static final Set<String> OWN =
            Set.of("CONNECTION_LOST", "DEADLINE_EXCEEDED", "STREAM_GAP", "STREAM_CLOSED");

    private static Status status(int code, String reason, Any... more) {
        ErrorInfo info = ErrorInfo.newBuilder()
                .setDomain("midstream.v1")
                .setReason(reason)
                .putMetadata("retryable", "true")
                .build();
        return Status.newBuilder()
                .setCode(code)
                .setMessage("words")
                .addDetails(Any.pack(info))
                .addAllDetails(List.of(more))
                .build();
    }

    private static MidstreamClientError errorOf(Status status) {
        return Statuses.errorOfCall(StatusProto.toStatusRuntimeException(status));
    }

    /** The Python client sets the standard: each of its reasons has a class here. */
    @Test
    void everyReasonOfThePythonClientHasAClass() throws IOException {
        String python = Files.readString(Path.of("../python/midstream_client/errors.py"));
        Set<String> reasons = Pattern.compile("default_reason = \"(\\w+)\"").matcher(python).results()
                .map((MatchResult match) -> match.group(1))
                .filter(reason -> !OWN.contains(reason))
                .collect(Collectors.toSet());

        Set<String> known = new HashSet<>(Statuses.CALL_ERRORS.keySet());
        known.addAll(Statuses.RUN_FAILURES.keySet());
        assertTrue(reasons.size() > 20, "found only " + reasons);
        assertEquals(reasons, known);
    }

    /** MODEL_NOT_FOUND throws ModelNotFound. */
    @Test
    void aReasonThrowsTheClassOfItsName() {
        Statuses.CALL_ERRORS.forEach((reason, maker) ->
                assertEquals(camel(reason), maker.apply(ErrorDetails.of("")).getClass().getSimpleName()));
        Statuses.RUN_FAILURES.forEach((reason, maker) -> {
            String name = maker.apply(ErrorDetails.of(""), Run.getDefaultInstance()).getClass().getSimpleName();
            assertTrue(name.equals(camel(reason)) || name.equals("Run" + camel(reason)), name);
        });
    }

    private static String camel(String reason) {
        return Stream.of(reason.split("_"))
                .map(word -> word.charAt(0) + word.substring(1).toLowerCase(Locale.ROOT))
                .collect(Collectors.joining());
    }

    /** All that the server said is in the error. */
    @Test
    void theDetailsOfAStatusAreKept() {
        BadRequest.FieldViolation violation =
                BadRequest.FieldViolation.newBuilder().setField("run_id").setDescription("no").build();
        RetryInfo retry = RetryInfo.newBuilder()
                .setRetryDelay(com.google.protobuf.Duration.newBuilder().setSeconds(2))
                .build();
        MidstreamClientError error = errorOf(status(Code.INVALID_ARGUMENT_VALUE, "INVALID_REQUEST",
                Any.pack(BadRequest.newBuilder().addFieldViolations(violation).build()), Any.pack(retry)));

        assertInstanceOf(InvalidRequest.class, error);
        assertEquals("INVALID_REQUEST: words", error.getMessage());
        assertEquals(io.grpc.Status.Code.INVALID_ARGUMENT, error.code().orElseThrow());
        assertEquals(Map.of("retryable", "true"), error.metadata());
        assertEquals(List.of(new FieldViolation("run_id", "no")), error.fieldViolations());
        assertEquals(Duration.ofSeconds(2), error.retryAfter().orElseThrow());
    }

    /** A later server's reason is kept, in the root class. */
    @Test
    void anUnknownReasonIsKept() {
        MidstreamClientError error = errorOf(status(Code.UNAVAILABLE_VALUE, "BRAND_NEW"));

        assertEquals(MidstreamClientError.class, error.getClass());
        assertEquals("BRAND_NEW", error.reason());
    }

    /** Without a reason of ours the status says what it was. */
    @Test
    void aStatusWithoutAReasonIsTheTransports() {
        assertInstanceOf(ConnectionLost.class,
                Statuses.errorOfCall(io.grpc.Status.UNAVAILABLE.asRuntimeException()));
        assertInstanceOf(DeadlineExceeded.class,
                Statuses.errorOfCall(io.grpc.Status.DEADLINE_EXCEEDED.asRuntimeException()));
        assertInstanceOf(Draining.class, errorOf(status(Code.UNAVAILABLE_VALUE, "DRAINING")));
        assertEquals("", Statuses.errorOfCall(io.grpc.Status.INTERNAL.asRuntimeException()).reason());
    }

    /** Details of another domain are not ours, wherever they stand. */
    @Test
    void onlyDetailsOfOurDomainAreRead() {
        ErrorInfo theirs = ErrorInfo.newBuilder().setDomain("example.com").setReason("RUN_NOT_FOUND").build();
        Status both = status(Code.UNKNOWN_VALUE, "UPSTREAM_REJECTED");
        Status behind = both.toBuilder().clearDetails()
                .addDetails(Any.pack(theirs)).addAllDetails(both.getDetailsList()).build();
        Status alone = behind.toBuilder().removeDetails(1).build();

        assertInstanceOf(UpstreamRejected.class,
                Statuses.errorOfRun(Run.newBuilder().setError(behind).build()));
        assertEquals("UPSTREAM_REJECTED", errorOf(behind).reason());
        assertEquals("", errorOf(alone).reason());
    }

    /** What cannot be read of a status leaves its code. */
    @Test
    void aDamagedStatusIsStillAnError() {
        Metadata trailers = new Metadata();
        trailers.put(Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER), new byte[] {-1, -1});

        MidstreamClientError error = Statuses.errorOfCall(
                io.grpc.Status.UNAVAILABLE.withDescription("words").asRuntimeException(trailers));

        assertInstanceOf(ConnectionLost.class, error);
        assertTrue(error.getMessage().contains("words"), error.getMessage());
    }

    /** A failed run is an error with the run, its partial, and whether another try may help. */
    @Test
    void aFailedRunIsAnError() {
        Run run = Run.newBuilder()
                .setRunId("r")
                .setLastSequence(4)
                .setError(status(Code.RESOURCE_EXHAUSTED_VALUE, "UPSTREAM_RATE_LIMITED"))
                .setMessage(Events.message("ab"))
                .build();

        RunFailed error = Statuses.errorOfRun(run);

        assertInstanceOf(UpstreamRateLimited.class, error);
        assertEquals(run, error.run());
        assertTrue(error.retryable());
        assertEquals("r 4", error.runId() + " " + error.lastSequence());
        assertEquals(Events.message("ab"), error.partial().orElseThrow());
        Run away = run.toBuilder().setError(status(Code.UNAVAILABLE_VALUE, "STORE_UNAVAILABLE")).build();
        assertInstanceOf(RunStoreUnavailable.class, Statuses.errorOfRun(away));
    }
}
