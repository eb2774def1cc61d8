package midstream.interop;

import java.util.Optional;
import midstream.client.Delta;
import midstream.client.RunStream;
import midstream.client.errors.MidstreamClientError;
import midstream.v1.Run;
import midstream.v1.RunStarted;

/** A RunStream. */
final class ClientReader extends Reader {
    final RunStream stream;
    private boolean isSnapshot;

    ClientReader(RunStream stream, long afterSequence, boolean isSnapshot, boolean isWhole) {
        super(afterSequence, isWhole);
        this.stream = stream;
        this.isSnapshot = isSnapshot;
    }

    @Override
    boolean advance() {
        try {
            if (!stream.hasNext()) {
                return false;
            }
            take(stream.next());
            return true;
        } catch (MidstreamClientError error) {
            throw ClientCaller.failed(error);
        }
    }

    @Override
    Run last() {
        try {
            Run run = stream.result();
            takeStarted();
            if (transcript.lastSequence() == run.getLastSequence() - 1) {
                transcript.entry(run.getLastSequence(), run.getLastSequence());
            }
            Checks.equal(stream.text(), Checks.text(run), "the stream's text in the end");
            return run;
        } catch (MidstreamClientError error) {
            throw ClientCaller.failed(error);
        }
    }

    @Override
    void leave() {
        stream.close();
    }

    @Override
    Optional<RunStarted> started() {
        return stream.started();
    }

    @Override
    String text() {
        Checks.equal(stream.text(), transcript.text(), "the stream's text and its deltas");
        return transcript.text();
    }

    private void take(Delta delta) {
        takeStarted();
        if (isSnapshot) {
            transcript.snapshot(delta.sequence());
            isSnapshot = delta.firstSequence() <= 1;
        } else {
            transcript.entry(delta.firstSequence(), delta.sequence());
        }
        transcript.delta(delta.content());
    }

    private void takeStarted() {
        if (transcript.lastSequence() == 0 && stream.started().isPresent()) {
            transcript.entry(1, 1);
        }
    }
}
