package midstream.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import midstream.v1.RunEvent;

/** A streaming call whose events are taken one by one, by a thread that may be interrupted without losing any. */
final class EventCall extends ClientCall.Listener<RunEvent> {
    /** As many events at most wait here. */
    private static final int WINDOW = 16;

    private final BlockingQueue<Arrival> arrivals = new LinkedBlockingQueue<>();
    private final ClientCall<?, RunEvent> call;
    private volatile Ended ended;

    private EventCall(ClientCall<?, RunEvent> call) {
        this.call = call;
    }

    static <T> EventCall start(Channel channel, MethodDescriptor<T, RunEvent> method, CallOptions options, T request) {
        ClientCall<T, RunEvent> call = channel.newCall(method, options);
        EventCall events = new EventCall(call);
        call.start(events, new Metadata());
        call.request(WINDOW);
        call.sendMessage(request);
        call.halfClose();
        return events;
    }

    /** The next event; empty, again and again, if the call ended well. Throws StatusRuntimeException if it did not. */
    Optional<RunEvent> take() throws InterruptedException {
        Arrival arrival = arrivals.take();
        if (arrival instanceof Arrived arrived) {
            call.request(1);
            return Optional.of(arrived.event());
        }
        arrivals.add(arrival);
        if (!ended.status().isOk()) {
            throw ended.toException();
        }
        return Optional.empty();
    }

    boolean isActive() {
        return ended == null;
    }

    /** Why it ended, if it did and not well. */
    Optional<StatusRuntimeException> failure() {
        Ended last = ended;
        return last == null || last.status().isOk() ? Optional.empty() : Optional.of(last.toException());
    }

    void cancel() {
        call.cancel("the stream was left", null);
    }

    @Override
    public void onMessage(RunEvent event) {
        arrivals.add(new Arrived(event));
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
        ended = new Ended(status, trailers);
        arrivals.add(ended);
    }

    private sealed interface Arrival {
    }

    private record Arrived(RunEvent event) implements Arrival {
    }

    private record Ended(Status status, Metadata trailers) implements Arrival {
        StatusRuntimeException toException() {
            return status.asRuntimeException(trailers);
        }
    }
}
