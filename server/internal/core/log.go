package core

import (
	"context"
	"log/slog"
)

type requestIDKey struct{}

// WithRequestID returns a context that makes log records made with it carry the id of the
// request.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestLog returns a logger that adds the id of the request to records made with a context of
// WithRequestID, also to those of backends, which know of no requests.
func RequestLog(log *slog.Logger) *slog.Logger { return slog.New(requestIDHandler{log.Handler()}) }

type requestIDHandler struct{ slog.Handler }

func (l requestIDHandler) Handle(ctx context.Context, rec slog.Record) error {
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		rec.AddAttrs(slog.String("request", id))
	}
	return l.Handler.Handle(ctx, rec)
}

func (l requestIDHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestIDHandler{l.Handler.WithAttrs(attrs)}
}

func (l requestIDHandler) WithGroup(name string) slog.Handler {
	return requestIDHandler{l.Handler.WithGroup(name)}
}
