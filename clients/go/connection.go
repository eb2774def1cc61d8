package midstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	// A server sends something at least every 15 s on a stream, so these pings never look like too many.
	streamKeepalive  = 10 * time.Second
	controlKeepalive = 30 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// controlServiceConfig repeats calls that may be repeated, while the server does not answer them at all.
const controlServiceConfig = `{"methodConfig": [{
	"name": [
		{"service": "midstream.v1.GenerationService", "method": "Cancel"},
		{"service": "midstream.v1.GenerationService", "method": "GetRun"},
		{"service": "midstream.v1.GenerationService", "method": "ListRuns"},
		{"service": "midstream.v1.GenerationService", "method": "ListModels"}
	],
	"retryPolicy": {
		"maxAttempts": 4,
		"initialBackoff": "0.1s",
		"maxBackoff": "1s",
		"backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// reconnecting is how fast a server that comes back is found again.
var reconnecting = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}

// Option changes how a [Client] connects and calls.
type Option func(*settings) error

type settings struct {
	credentials    credentials.TransportCredentials
	dialOptions    []grpc.DialOption
	requestTimeout time.Duration
	resumeTime     *time.Duration
}

// WithAPIKey sends the key with every call as a bearer token.
func WithAPIKey(key string) Option {
	return WithDialOptions(grpc.WithPerRPCCredentials(bearerToken(key)))
}

// WithTLS speaks TLS. A nil configuration trusts the authorities of the system.
func WithTLS(configuration *tls.Config) Option {
	return func(settings *settings) error {
		settings.credentials = credentials.NewTLS(configuration)
		return nil
	}
}

// WithCAFile speaks TLS and trusts only the authorities in a file (PEM).
func WithCAFile(path string) Option {
	return func(settings *settings) error {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("midstream: %w", err)
		}
		authorities := x509.NewCertPool()
		if !authorities.AppendCertsFromPEM(content) {
			return fmt.Errorf("midstream: %s holds no certificate", path)
		}
		return WithTLS(&tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12})(settings)
	}
}

// WithRequestTimeout is how long a call that follows nothing may take, its own waiting not counted. Default 10 s.
func WithRequestTimeout(timeout time.Duration) Option {
	return func(settings *settings) error {
		settings.requestTimeout = timeout
		return nil
	}
}

// WithResumeTime is how long a lost connection is tried to be had again; 0 is not at all. Default: the run's grace, or
// 10 s.
func WithResumeTime(resumeTime time.Duration) Option {
	return func(settings *settings) error {
		settings.resumeTime = &resumeTime
		return nil
	}
}

// WithDialOptions adds options of gRPC to both connections, such as interceptors.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(settings *settings) error {
		settings.dialOptions = append(settings.dialOptions, options...)
		return nil
	}
}

// connection is one of a client's two: a stream that waits for its turn on a busy one must not keep a Cancel waiting.
type connection struct {
	channel *grpc.ClientConn
	stub    midstreamv1.GenerationServiceClient
}

// connect makes a connection that is not there before the first call.
func connect(target string, settings *settings, ping time.Duration, more ...grpc.DialOption) (connection, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(settings.credentials),
		grpc.WithUserAgent("midstream-go/" + Version),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: ping, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           reconnecting,
			MinConnectTimeout: 5 * time.Second,
		}),
	}, append(more, settings.dialOptions...)...)
	channel, err := grpc.NewClient(target, options...)
	if err != nil {
		return connection{}, fmt.Errorf("midstream: %w", err)
	}
	return connection{channel: channel, stub: midstreamv1.NewGenerationServiceClient(channel)}, nil
}

func newSettings(options []Option) (*settings, error) {
	made := &settings{credentials: insecure.NewCredentials(), requestTimeout: 10 * time.Second}
	for _, option := range options {
		if err := option(made); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// bearerToken goes with every call, over plain text too: whether that is safe is the caller's to know.
type bearerToken string

func (t bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (t bearerToken) RequireTransportSecurity() bool { return false }
