package core

import (
	"context"
	"log/slog"
)

type requestKey struct{}

// WithRequestID lets what is logged with the context, or one made of it, say which request it
// was for.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// RequestLog returns a logger like log that adds the id of the request, be the record
// made by a backend that knows of no requests.
func RequestLog(log *slog.Logger) *slog.Logger { return slog.New(requestLog{log.Handler()}) }

type requestLog struct{ slog.Handler }

func (l requestLog) Handle(ctx context.Context, rec slog.Record) error {
	if id, ok := ctx.Value(requestKey{}).(string); ok {
		rec.AddAttrs(slog.String("request", id))
	}
	return l.Handler.Handle(ctx, rec)
}

func (l requestLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestLog{l.Handler.WithAttrs(attrs)}
}

func (l requestLog) WithGroup(name string) slog.Handler { return requestLog{l.Handler.WithGroup(name)} }
