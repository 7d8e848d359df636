package accounts

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// TestLastKey shows that the last admin key of an organisation and the last operator key stay,
// unless somebody insists or an identity provider gives the same rights.
func TestLastKey(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		ctx, c := t.Context(), newClock()
		s := openStore(t, database, Options{Clock: c.read})
		mk := func(n NewKey) Key {
			t.Helper()
			if n.Org == "" {
				n.Org = "acme"
			}
			n.Name = "k"
			k, _, err := s.CreateKey(ctx, n)
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		revoke := func(k Key, opts RevokeOptions, want Loss) {
			t.Helper()
			_, loss, err := s.RevokeKey(ctx, k.Org, k.ID, opts)
			last := (*LastKeyError)(nil)
			if refused := errors.As(err, &last); refused != (want.Any() && !opts.Force) || !refused && err != nil || loss != want {
				t.Errorf("%v %+v: loss %+v, %v; want %+v", k.Scopes.Strings(), opts, loss, err, want)
			}
		}
		root := mk(NewKey{Scopes: Admin | Operator})
		mk(NewKey{Org: "other", Scopes: Admin})
		mk(NewKey{Scopes: Admin, Volumes: []string{vol1}})
		mk(NewKey{Scopes: Write})
		short := mk(NewKey{Scopes: Admin | Operator, Expires: c.read().Add(time.Hour)})
		revoke(short, RevokeOptions{}, Loss{})
		short = mk(NewKey{Scopes: Admin | Operator, Expires: c.read().Add(time.Hour)})
		c.add(2 * time.Hour)
		revoke(root, RevokeOptions{}, Loss{Admin: true, Operator: true})
		revoke(short, RevokeOptions{}, Loss{}) // it has ended by itself
		op := mk(NewKey{Org: "other", Scopes: Operator})
		revoke(root, RevokeOptions{}, Loss{Admin: true})
		second := mk(NewKey{Scopes: Admin})
		revoke(root, RevokeOptions{}, Loss{})
		revoke(second, RevokeOptions{Provider: Admin | Operator}, Loss{})
		revoke(op, RevokeOptions{Provider: Admin}, Loss{Operator: true})
		if have, err := s.HasOperatorKey(ctx); err != nil || !have {
			t.Errorf("an operator's key: %v, %v", have, err)
		}
		revoke(op, RevokeOptions{Force: true}, Loss{Operator: true})
		if have, err := s.HasOperatorKey(ctx); err != nil || have {
			t.Errorf("an operator's key after the last one: %v, %v", have, err)
		}
	})
}

// TestLastKeyTwice revokes the last two keys at once: one stays.
func TestLastKeyTwice(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, database string) {
		s, other := openStore(t, database, Options{}), openStore(t, database, Options{})
		for range 5 {
			var ids []string
			for range 2 {
				k, _, err := s.CreateKey(t.Context(), NewKey{Org: "acme", Name: "k", Scopes: Admin | Operator})
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, k.ID)
			}
			var wg sync.WaitGroup
			var errs [2]error
			for i, on := range []*Store{s, other} {
				wg.Go(func() { _, _, errs[i] = on.RevokeKey(t.Context(), "acme", ids[i], RevokeOptions{}) })
			}
			wg.Wait()
			last := (*LastKeyError)(nil)
			if (errs[0] == nil) == (errs[1] == nil) || !errors.As(errors.Join(errs[:]...), &last) {
				t.Fatalf("revoked at once: %v and %v", errs[0], errs[1])
			}
			for _, id := range ids {
				if _, _, err := s.RevokeKey(t.Context(), "acme", id, RevokeOptions{Force: true}); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
