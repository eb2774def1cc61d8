package midstream.client.errors;

import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import midstream.v1.Message;

/**
 * The root of everything that the client throws.
 *
 * <p>There is a class for each {@code ErrorInfo.reason} of Midstream, named like it: MODEL_NOT_FOUND throws
 * {@link ModelNotFound}. A reason that this version does not know throws this class, with that reason.
 * {@link RunFailed} and what is below it are outcomes of a run, not of a call; only
 * {@code RunStream.resultOrThrow()} throws them.
 */
public class MidstreamClientError extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final ErrorDetails details;
    private String runId = "";
    private long lastSequence;
    private Message partial;

    /** As the client makes it. */
    public MidstreamClientError(ErrorDetails details) {
        super(details.message());
        this.details = details.orElse("", "the call failed");
    }

    /** The reason, if there is one, and the words. */
    @Override
    public String getMessage() {
        return reason().isEmpty() ? message() : reason() + ": " + message();
    }

    /** For people. */
    public final String message() {
        return details.message();
    }

    /** UPPER_SNAKE, for programs. Empty if neither the server nor the client gave one. */
    public final String reason() {
        return details.reason();
    }

    /** The gRPC status; empty if the error arose in the client. */
    public final Optional<Status.Code> code() {
        return Optional.ofNullable(details.code());
    }

    /** What the server added, by fixed keys. */
    public final Map<String, String> metadata() {
        return details.metadata();
    }

    /** Of an INVALID_ARGUMENT. */
    public final List<FieldViolation> fieldViolations() {
        return details.fieldViolations();
    }

    /** After which the server expects a retry to help, if it said so. */
    public final Optional<Duration> retryAfter() {
        return Optional.ofNullable(details.retryAfter());
    }

    /** The run that was followed. Empty for other calls. */
    public final String runId() {
        return runId;
    }

    /** The last sequence that was received of it. */
    public final long lastSequence() {
        return lastSequence;
    }

    /** What was received of its message; empty if that is nothing. */
    public final Optional<Message> partial() {
        return Optional.ofNullable(partial);
    }

    /** Adds what was received of a run. For the client. */
    public final MidstreamClientError at(String runId, long lastSequence, Message received) {
        this.runId = runId;
        this.lastSequence = lastSequence;
        this.partial = received.getPartsCount() == 0 ? null : received;
        return this;
    }
}
