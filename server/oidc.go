package server

import "github.com/volehq/vole/server/internal/core"

// OIDC says whose tokens are accepted beside keys.
type OIDC struct {
	Issuer   string
	Audience string
}

func (o *OIDC) verifier() core.Verifier { return nil }
