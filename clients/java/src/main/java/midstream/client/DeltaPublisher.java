package midstream.client;

import java.util.concurrent.Executor;
import java.util.concurrent.Flow;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import midstream.client.errors.MidstreamClientError;

/** A stream for one subscriber. While there is demand, a task of the executor waits for deltas; otherwise none does. */
final class DeltaPublisher implements Flow.Publisher<Delta> {
    private final RunStream stream;
    private final Executor executor;
    private final AtomicBoolean hasSubscriber = new AtomicBoolean();

    DeltaPublisher(RunStream stream, Executor executor) {
        this.stream = stream;
        this.executor = executor;
    }

    @Override
    public void subscribe(Flow.Subscriber<? super Delta> subscriber) {
        boolean isFirst = hasSubscriber.compareAndSet(false, true);
        Subscription subscription = new Subscription(subscriber, isFirst);
        subscriber.onSubscribe(subscription);
        if (!isFirst) {
            subscriber.onError(new IllegalStateException("a run's stream has one subscriber"));
        }
    }

    private final class Subscription implements Flow.Subscription {
        private final Flow.Subscriber<? super Delta> subscriber;
        private final AtomicLong demand = new AtomicLong();
        private volatile boolean isOver;

        Subscription(Flow.Subscriber<? super Delta> subscriber, boolean isFirst) {
            this.subscriber = subscriber;
            this.isOver = !isFirst;
        }

        @Override
        public void request(long count) {
            long more = count > 0 ? count : Long.MAX_VALUE; // a wrong count is told by the task, in its turn
            long before = demand.getAndUpdate(now -> now + more < 0 ? Long.MAX_VALUE : now + more);
            if (count <= 0 && !isOver) {
                isOver = true;
                stream.close();
                subscriber.onError(new IllegalArgumentException("a subscriber requests more than 0"));
            } else if (before == 0 && !isOver) {
                executor.execute(this::deliver);
            }
        }

        @Override
        public void cancel() {
            if (!isOver) {
                isOver = true;
                stream.close();
            }
        }

        private void deliver() {
            try {
                do {
                    if (isOver) {
                        return;
                    }
                    if (!stream.hasNext()) {
                        finish(subscriber::onComplete);
                        return;
                    }
                    subscriber.onNext(stream.next());
                } while (demand.updateAndGet(now -> now == Long.MAX_VALUE ? now : now - 1) > 0);
            } catch (MidstreamClientError error) {
                finish(() -> subscriber.onError(error));
            } catch (RuntimeException | Error error) { // of the subscriber, which is then to be taken for gone
                cancel();
                throw error;
            }
        }

        private void finish(Runnable signal) {
            if (!isOver) {
                isOver = true;
                stream.close();
                signal.run();
            }
        }
    }
}
