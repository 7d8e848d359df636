package core

import (
	"context"
	"log/slog"
)

type requestIDKey struct{}

// WithRequestID lets what is logged with the context, or one made of it, say which request it
// was for.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestLog returns a logger like log that adds the id of the request, be the record
// made by a backend that knows of no requests.
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
