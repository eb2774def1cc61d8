package midstream.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * Two channels: one for streams, and one for control. A stream that waits for its turn on a busy connection must not
 * keep a Cancel waiting behind it. Nothing is connected before the first call.
 */
final class Transport implements AutoCloseable {
    // A server sends something at least every 15 s on a stream, so these pings never look like too many.
    private static final int STREAM_KEEPALIVE_SECONDS = 10;
    private static final int CONTROL_KEEPALIVE_SECONDS = 30;
    private static final int KEEPALIVE_TIMEOUT_SECONDS = 5;
    private static final int CONNECT_TIMEOUT_MILLISECONDS = 5_000;
    private static final int CLOSE_SECONDS = 5;
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final ManagedChannel streamChannel;
    private final ManagedChannel controlChannel;
    private final Channel streams;
    private final Channel control;
    private volatile boolean isClosed;

    /** An api key and a server name may be null. */
    Transport(String target, ChannelCredentials credentials, String serverName, String apiKey) {
        streamChannel = builder(target, credentials, serverName, STREAM_KEEPALIVE_SECONDS).build();
        controlChannel = builder(target, credentials, serverName, CONTROL_KEEPALIVE_SECONDS)
                .defaultServiceConfig(retries())
                .build();
        streams = withKey(streamChannel, apiKey);
        control = withKey(controlChannel, apiKey);
    }

    /** For Generate and WatchRun. A connection that was lost is tried at once, not when gRPC would. */
    Channel streams() {
        hasten(streamChannel);
        return streams;
    }

    /** For everything else. */
    Channel control() {
        hasten(controlChannel);
        return control;
    }

    /** Connects the control channel ahead of the first Cancel. */
    void warm() {
        controlChannel.getState(true);
    }

    boolean isClosed() {
        return isClosed;
    }

    /** Ends every call. Safe to call twice. */
    @Override
    public void close() {
        isClosed = true;
        streamChannel.shutdownNow();
        controlChannel.shutdownNow();
        Waits.uninterruptibly(Duration.ofSeconds(CLOSE_SECONDS), left -> {
            long end = System.nanoTime() + left;
            streamChannel.awaitTermination(left, TimeUnit.NANOSECONDS);
            controlChannel.awaitTermination(end - System.nanoTime(), TimeUnit.NANOSECONDS);
        });
    }

    static CallOptions within(Duration time) {
        return CallOptions.DEFAULT.withDeadlineAfter(time.toNanos(), TimeUnit.NANOSECONDS);
    }

    private static void hasten(ManagedChannel channel) {
        if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
            channel.resetConnectBackoff();
        }
    }

    private static NettyChannelBuilder builder(
            String target, ChannelCredentials credentials, String serverName, int keepaliveSeconds) {
        NettyChannelBuilder builder = NettyChannelBuilder.forTarget(target, credentials)
                .directExecutor() // our listeners only hand over
                .keepAliveTime(keepaliveSeconds, TimeUnit.SECONDS)
                .keepAliveTimeout(KEEPALIVE_TIMEOUT_SECONDS, TimeUnit.SECONDS)
                .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, CONNECT_TIMEOUT_MILLISECONDS);
        return serverName == null ? builder : builder.overrideAuthority(serverName);
    }

    private static Channel withKey(Channel channel, String apiKey) {
        if (apiKey == null) {
            return channel;
        }
        Metadata metadata = new Metadata();
        metadata.put(AUTHORIZATION, "Bearer " + apiKey);
        return ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
    }

    /** Calls that may be repeated, and are, while the server does not answer them at all. */
    private static Map<String, ?> retries() {
        List<Map<String, String>> names = List.of("Cancel", "GetRun", "ListRuns", "ListModels").stream()
                .map(method -> Map.of("service", "midstream.v1.GenerationService", "method", method))
                .toList();
        Map<String, ?> policy = Map.of(
                "maxAttempts", 4.0,
                "initialBackoff", "0.1s",
                "maxBackoff", "1s",
                "backoffMultiplier", 2.0,
                "retryableStatusCodes", List.of("UNAVAILABLE"));
        return Map.of("methodConfig", List.of(Map.of("name", names, "retryPolicy", policy)));
    }
}
