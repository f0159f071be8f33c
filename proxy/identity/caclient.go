package identity

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"ztunnel/proxy/api/caapi"
	"ztunnel/proxy/istiod"
	"ztunnel/proxy/spiffe"
)

// impersonated is the field of a request's metadata with the identity that is asked for, where it is not the caller's own.
const impersonated = "ImpersonatedIdentity"

// maxMessage bounds how much of the CA's words an error repeats, in bytes.
const maxMessage = 512

// CAConfig are the settings of a CAClient.
type CAConfig struct {
	// Channel leads to the CA. It is required.
	Channel *istiod.Channel
	// TTL is the life of certificates that is asked for, in whole seconds; the CA may give another one. 0 or less means
	// DefaultTTL.
	TTL time.Duration
	// Impersonate asks for certificates of the workloads by name, and takes no others: shared mode. Off, the CA decides by
	// our token who we are: dedicated mode.
	Impersonate bool
	// TLS becomes part of every certificate.
	TLS TLSOptions
	// Log gets what an operator has to know beside the errors. Nil logs nothing.
	Log *slog.Logger
}

// CAClient gets certificates from istiod, or whoever speaks istio.v1.auth.IstioCertificateService. All requests share one
// connection. It is replaced when it failed, so that each request after that tries anew at once, and when the file of root
// certificates changed.
type CAClient struct {
	cfg  CAConfig
	link link
}

var _ CA = (*CAClient)(nil)

// NewCAClient returns a client, which connects with its first request. It must be closed.
func NewCAClient(cfg CAConfig) *CAClient {
	if cfg.Channel == nil {
		panic("identity: CAConfig.Channel is nil")
	}
	if cfg.TTL <= 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &CAClient{cfg: cfg, link: link{channel: cfg.Channel, log: cfg.Log}}
}

// Close closes the connection and refuses requests from then on. Call it once no request runs any more: after Run of the
// Manager.
func (ca *CAClient) Close() { ca.link.close() }

// Sign asks the CA for a certificate of id, for a fresh key. The error is a *CSRError, *RequestError, *EmptyChainError or
// *SANError.
func (ca *CAClient) Sign(ctx context.Context, id spiffe.ID) (*Certificate, error) {
	csr, key, err := NewCSR(id)
	if err != nil {
		return nil, err
	}
	chain, err := ca.request(ctx, id, csr)
	if err != nil {
		return nil, err
	}
	cert, err := ParseChain(id, key, chain, ca.cfg.TLS)
	if err != nil {
		return nil, err
	}
	if ca.cfg.Impersonate {
		if err := cert.CheckID(id); err != nil {
			got := "none"
			if own, ok := cert.ID(); ok {
				got = own.String()
			}
			ca.cfg.Log.Error("expected identity " + id.String() + ", got " + got)
			return nil, err
		}
	}
	return cert, nil
}

// request makes the call and returns the texts of the chain.
func (ca *CAClient) request(ctx context.Context, id spiffe.ID, csr []byte) ([]string, error) {
	req := &caapi.IstioCertificateRequest{Csr: string(csr), ValidityDuration: seconds(ca.cfg.TTL)}
	if ca.cfg.Impersonate {
		req.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{impersonated: structpb.NewStringValue(id.String())}}
	}
	callCtx, err := ca.cfg.Channel.Context(ctx)
	if err != nil {
		return nil, requestError(err)
	}
	conn, err := ca.link.acquire()
	if err != nil {
		return nil, requestError(err)
	}
	resp, err := caapi.NewIstioCertificateServiceClient(conn.cc).CreateCertificate(callCtx, req)
	ca.link.release(conn, brokenBy(err))
	if err != nil {
		return nil, requestError(err)
	}
	return resp.GetCertChain(), nil
}

// seconds is a life as the CA is asked for it: whole seconds, but not none at all, which would mean the CA's own default.
func seconds(ttl time.Duration) int64 {
	return max(int64(math.Ceil(ttl.Seconds())), 1)
}

// brokenBy reports whether a call failed in a way that may be the connection's fault.
func brokenBy(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// requestError puts the error of a call, or of what comes before it, into the reference's form.
func requestError(err error) *RequestError {
	s, ok := status.FromError(err)
	if !ok {
		s = status.New(codes.Unknown, err.Error())
	}
	code, message := s.Code(), s.Message()
	if len(message) > maxMessage {
		message = message[:maxMessage]
	}
	text, ok := codeTexts[code]
	if !ok {
		code, text = codes.Unknown, codeTexts[codes.Unknown]
	}
	return &RequestError{Code: code.String(), Status: text, Message: strings.ToValidUTF8(message, ""), Err: err}
}

// codeTexts are the codes of gRPC as the reference's library writes them out.
var codeTexts = map[codes.Code]string{
	codes.Canceled:           "The operation was cancelled",
	codes.Unknown:            "Unknown error",
	codes.InvalidArgument:    "Client specified an invalid argument",
	codes.DeadlineExceeded:   "Deadline expired before operation could complete",
	codes.NotFound:           "Some requested entity was not found",
	codes.AlreadyExists:      "Some entity that we attempted to create already exists",
	codes.PermissionDenied:   "The caller does not have permission to execute the specified operation",
	codes.ResourceExhausted:  "Some resource has been exhausted",
	codes.FailedPrecondition: "The system is not in a state required for the operation's execution",
	codes.Aborted:            "The operation was aborted",
	codes.OutOfRange:         "Operation was attempted past the valid range",
	codes.Unimplemented:      "Operation is not implemented or not supported",
	codes.Internal:           "Internal error",
	codes.Unavailable:        "The service is currently unavailable",
	codes.DataLoss:           "Unrecoverable data loss or corruption",
	codes.Unauthenticated:    "The request does not have valid authentication credentials",
}
