package midstream.interop;

import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.Iterator;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.Function;
import midstream.v1.GenerationServiceGrpc.GenerationServiceBlockingStub;
import midstream.v1.Run;
import midstream.v1.RunEvent;
import midstream.v1.RunStarted;
import midstream.v1.WatchRunRequest;

/** A stream of a stub: an iterator, and a context to cancel it by. Resumes as PROTOCOL.md says. */
final class RawReader extends Reader {
    private static final Set<Status.Code> LOSSES = EnumSet.of(
            Status.Code.UNAVAILABLE, Status.Code.UNKNOWN, Status.Code.INTERNAL, Status.Code.CANCELLED);
    private static final long PAUSE_MILLISECONDS = 100;
    private static final long GIVE_UP_NANOSECONDS = 10_000_000_000L;

    final List<RunEvent> events = new ArrayList<>();
    private final GenerationServiceBlockingStub stub;
    private final Function<GenerationServiceBlockingStub, Iterator<RunEvent>> opening;
    private final boolean resumes;
    private Context.CancellableContext context;
    private Iterator<RunEvent> call;
    private Run run;
    private boolean isLeft;

    RawReader(
            GenerationServiceBlockingStub stub,
            Function<GenerationServiceBlockingStub, Iterator<RunEvent>> opening,
            long afterSequence,
            boolean isWhole,
            boolean resumes) {
        super(afterSequence, isWhole);
        this.stub = stub;
        this.opening = opening;
        this.resumes = resumes;
        open(opening);
    }

    @Override
    boolean advance() {
        long giveUp = System.nanoTime() + GIVE_UP_NANOSECONDS;
        while (true) {
            try {
                if (!call.hasNext()) {
                    return false;
                }
                take(call.next());
                return true;
            } catch (StatusRuntimeException error) {
                boolean isLoss = LOSSES.contains(error.getStatus().getCode()) && !isLeft;
                if (!resumes || !isLoss || System.nanoTime() - giveUp > 0) {
                    throw RawCaller.failed(error);
                }
                reopen();
            }
        }
    }

    @Override
    Run last() {
        Checks.that(run != null, "the stream ended without a RunFinished");
        return run;
    }

    @Override
    void leave() {
        isLeft = true;
        context.cancel(null);
    }

    @Override
    Optional<RunStarted> started() {
        return events.stream().filter(RunEvent::hasStarted).map(RunEvent::getStarted).findFirst();
    }

    @Override
    String text() {
        return transcript.text();
    }

    private void open(Function<GenerationServiceBlockingStub, Iterator<RunEvent>> request) {
        context = Context.ROOT.withCancellation();
        context.run(() -> call = request.apply(stub));
    }

    private void reopen() {
        context.cancel(null);
        try {
            Thread.sleep(PAUSE_MILLISECONDS); // no busy loop against a server that is away
        } catch (InterruptedException interrupt) {
            throw new AssertionError("the time was over", interrupt);
        }
        WatchRunRequest request = WatchRunRequest.newBuilder()
                .setRunId(started().map(RunStarted::getRunId).orElse(""))
                .setAfterSequence(transcript.lastSequence())
                .setClaim(true)
                .build();
        open(transcript.lastSequence() == 0 ? opening : next -> next.watchRun(request));
    }

    private void take(RunEvent event) {
        Checks.that(run == null, "an event came after RunFinished: " + event);
        if (event.hasProgress()) {
            return;
        }
        events.add(event);
        if (event.hasSnapshot()) {
            transcript.snapshot(event.getSequence());
            for (int index = 0; index < event.getSnapshot().getRun().getMessage().getPartsCount(); index++) {
                transcript.delta(RawCaller.whole(index, event.getSnapshot().getRun().getMessage().getParts(index)));
            }
            return;
        }
        long first = event.getFirstSequence() == 0 ? event.getSequence() : event.getFirstSequence();
        transcript.entry(first, event.getSequence());
        if (event.hasDelta()) {
            transcript.delta(event.getDelta());
        } else if (event.hasFinished()) {
            run = event.getFinished().getRun();
        }
    }
}
