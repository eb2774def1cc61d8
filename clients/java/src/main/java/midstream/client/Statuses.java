package midstream.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.function.BiFunction;
import java.util.function.Function;
import java.util.stream.Stream;
import midstream.client.errors.ConnectionLost;
import midstream.client.errors.ContinueUnsupported;
import midstream.client.errors.ConversationBusy;
import midstream.client.errors.CursorAhead;
import midstream.client.errors.DeadlineExceeded;
import midstream.client.errors.Draining;
import midstream.client.errors.ErrorDetails;
import midstream.client.errors.FieldViolation;
import midstream.client.errors.FirstTokenTimeout;
import midstream.client.errors.IdleTimeout;
import midstream.client.errors.Internal;
import midstream.client.errors.InvalidRequest;
import midstream.client.errors.MidstreamClientError;
import midstream.client.errors.ModelNotFound;
import midstream.client.errors.OutputTooLarge;
import midstream.client.errors.OwnerLost;
import midstream.client.errors.QueueTimeout;
import midstream.client.errors.RunExpired;
import midstream.client.errors.RunFailed;
import midstream.client.errors.RunIdConflict;
import midstream.client.errors.RunInternal;
import midstream.client.errors.RunLive;
import midstream.client.errors.RunNotFound;
import midstream.client.errors.RunStoreUnavailable;
import midstream.client.errors.RunTimeExceeded;
import midstream.client.errors.ServerShutdown;
import midstream.client.errors.SlowReader;
import midstream.client.errors.StoreCorrupt;
import midstream.client.errors.StoreUnavailable;
import midstream.client.errors.TooManyRememberedCancels;
import midstream.client.errors.TooManyRuns;
import midstream.client.errors.UpstreamMalformed;
import midstream.client.errors.UpstreamRateLimited;
import midstream.client.errors.UpstreamRejected;
import midstream.client.errors.UpstreamTruncated;
import midstream.client.errors.UpstreamUnavailable;
import midstream.v1.Run;

/** From gRPC statuses, and from the error of a run, to errors of this package. */
final class Statuses {
    static final String DOMAIN = "midstream.v1";

    /** The class of each failure of a call, by its reason. */
    static final Map<String, Function<ErrorDetails, MidstreamClientError>> CALL_ERRORS = Map.ofEntries(
            Map.entry(InvalidRequest.REASON, InvalidRequest::new),
            Map.entry(ModelNotFound.REASON, ModelNotFound::new),
            Map.entry(RunNotFound.REASON, RunNotFound::new),
            Map.entry(RunExpired.REASON, RunExpired::new),
            Map.entry(RunIdConflict.REASON, RunIdConflict::new),
            Map.entry(RunLive.REASON, RunLive::new),
            Map.entry(ConversationBusy.REASON, ConversationBusy::new),
            Map.entry(ContinueUnsupported.REASON, ContinueUnsupported::new),
            Map.entry(TooManyRememberedCancels.REASON, TooManyRememberedCancels::new),
            Map.entry(TooManyRuns.REASON, TooManyRuns::new),
            Map.entry(Draining.REASON, Draining::new),
            Map.entry(CursorAhead.REASON, CursorAhead::new),
            Map.entry(SlowReader.REASON, SlowReader::new),
            Map.entry(StoreUnavailable.REASON, StoreUnavailable::new),
            Map.entry(StoreCorrupt.REASON, StoreCorrupt::new),
            Map.entry(Internal.REASON, Internal::new));

    /** The class of each failure of a run, by its reason. */
    static final Map<String, BiFunction<ErrorDetails, Run, RunFailed>> RUN_FAILURES = Map.ofEntries(
            Map.entry(UpstreamUnavailable.REASON, UpstreamUnavailable::new),
            Map.entry(UpstreamRejected.REASON, UpstreamRejected::new),
            Map.entry(UpstreamRateLimited.REASON, UpstreamRateLimited::new),
            Map.entry(UpstreamTruncated.REASON, UpstreamTruncated::new),
            Map.entry(UpstreamMalformed.REASON, UpstreamMalformed::new),
            Map.entry(FirstTokenTimeout.REASON, FirstTokenTimeout::new),
            Map.entry(IdleTimeout.REASON, IdleTimeout::new),
            Map.entry(RunTimeExceeded.REASON, RunTimeExceeded::new),
            Map.entry(OutputTooLarge.REASON, OutputTooLarge::new),
            Map.entry(QueueTimeout.REASON, QueueTimeout::new),
            Map.entry(ServerShutdown.REASON, ServerShutdown::new),
            Map.entry(OwnerLost.REASON, OwnerLost::new),
            Map.entry(RunStoreUnavailable.REASON, RunStoreUnavailable::new),
            Map.entry(RunInternal.REASON, RunInternal::new));

    private Statuses() {
    }

    /** The typed error of a call that failed. */
    static MidstreamClientError errorOfCall(StatusRuntimeException error) {
        Status status = statusOf(error);
        ErrorDetails details = details(status, error.getStatus().getCode());
        MidstreamClientError made = CALL_ERRORS
                .getOrDefault(details.reason(), unnamed -> withoutReason(unnamed))
                .apply(details);
        made.initCause(error);
        return made;
    }

    private static Status statusOf(StatusRuntimeException error) {
        try {
            return StatusProto.fromThrowable(error);
        } catch (IllegalArgumentException damaged) { // the details; the code and the words are known all the same
            return StatusProto.fromThrowable(error.getStatus().asRuntimeException());
        }
    }

    /** The typed error of a run that FAILED. */
    static RunFailed errorOfRun(Run run) {
        io.grpc.Status status = io.grpc.Status.fromCodeValue(run.getError().getCode());
        ErrorDetails details = details(run.getError(), status.getCode());
        return RUN_FAILURES.getOrDefault(details.reason(), RunFailed::new).apply(details, run);
    }

    private static MidstreamClientError withoutReason(ErrorDetails details) {
        if (details.reason().isEmpty() && details.code() == io.grpc.Status.Code.UNAVAILABLE) {
            return new ConnectionLost(details);
        }
        if (details.reason().isEmpty() && details.code() == io.grpc.Status.Code.DEADLINE_EXCEEDED) {
            return new DeadlineExceeded(details);
        }
        return new MidstreamClientError(details);
    }

    private static ErrorDetails details(Status status, io.grpc.Status.Code code) {
        ErrorInfo info = errorInfo(status);
        return new ErrorDetails(
                status.getMessage(),
                info.getReason(),
                code,
                info.getMetadataMap(),
                fieldViolations(status),
                retryAfter(status));
    }

    private static ErrorInfo errorInfo(Status status) {
        return find(status, ErrorInfo.class)
                .filter(info -> info.getDomain().equals(DOMAIN))
                .findFirst()
                .orElse(ErrorInfo.getDefaultInstance());
    }

    private static List<FieldViolation> fieldViolations(Status status) {
        return find(status, BadRequest.class)
                .flatMap(each -> each.getFieldViolationsList().stream())
                .map(each -> new FieldViolation(each.getField(), each.getDescription()))
                .toList();
    }

    private static Duration retryAfter(Status status) {
        return find(status, RetryInfo.class)
                .map(each -> Durations.toJava(each.getRetryDelay()))
                .findFirst()
                .orElse(null);
    }

    private static <T extends Message> Stream<T> find(Status status, Class<T> kind) {
        return status.getDetailsList().stream().filter(detail -> detail.is(kind)).flatMap(detail -> unpack(detail, kind));
    }

    private static <T extends Message> Stream<T> unpack(Any detail, Class<T> kind) {
        try {
            return Stream.of(detail.unpack(kind));
        } catch (InvalidProtocolBufferException error) {
            return Stream.empty(); // what cannot be read says nothing
        }
    }
}
