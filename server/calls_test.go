package server

import (
	"archive/tar"
	"bytes"
	"net/http"
	"net/url"
)

// calls has, for each operation, a request that the owner of x would make. A new
// operation belongs here; the tests of the description and of rights fail without it.
var calls = map[string]func(x *fixture) apiCall{
	"health":    plainCall,
	"ready":     plainCall,
	"openapi":   plainCall,
	"metrics":   plainCall,
	"getServer": plainCall,
	"cancel":    queryCall("key", "nothing"),
	"check":     queryCall("fix", "false"),

	"listVolumes":   plainCall,
	"createVolume":  func(*fixture) apiCall { return apiCall{body: `{"name":"fresh","quota":1048576}`} },
	"getVolume":     fileCall(),
	"updateVolume":  bodyCall(`{"set_labels":{"c":"d"}}`),
	"removeVolume":  fileCall(),
	"cloneVolume":   bodyCall(`{"name":"clone"}`),
	"measureVolume": fileCall(),
	"getUsage":      fileCall(),
	"watch": func(x *fixture) apiCall {
		return apiCall{query: url.Values{"volume": {x.volume}}, target: "volume"}
	},

	"readFile":     fileCall("path", "file"),
	"writeFile":    writeCall("new", "path", "file"),
	"removeFile":   fileCall("path", "dir", "recursive", "true"),
	"stat":         fileCall("path", "file"),
	"statMany":     bodyCall(`{"paths":["file","dir","none","link"]}`),
	"listEntries":  fileCall("path", "dir", "limit", "1"),
	"endListing":   func(x *fixture) apiCall { return x.onVolume(url.Values{"cursor": {x.cursor}}, "") },
	"readlink":     fileCall("path", "link"),
	"mkdir":        fileCall("path", "more/dirs", "parents", "true"),
	"rename":       fileCall("path", "file", "to", "moved"),
	"copy":         fileCall("path", "dir", "to", "copied"),
	"link":         fileCall("path", "second", "target", "file"),
	"symlink":      fileCall("path", "soft", "target", "../anywhere"),
	"mknod":        fileCall("path", "pipe", "type", "fifo", "mode", "600"),
	"chmod":        fileCall("path", "file", "mode", "600"),
	"chown":        fileCall("path", "file", "uid", "7", "gid", "8"),
	"chtimes":      fileCall("path", "file", "mtime", "2020-01-02T03:04:05.678Z"),
	"truncate":     fileCall("path", "file", "size", "3"),
	"syncVolume":   fileCall(),
	"listXattrs":   fileCall("path", "file"),
	"getXattr":     fileCall("path", "file", "name", "user.a"),
	"setXattr":     writeCall("other", "path", "file", "name", "user.b"),
	"removeXattr":  fileCall("path", "file", "name", "user.a"),
	"readArchive":  fileCall("path", "dir"),
	"writeArchive": func(x *fixture) apiCall { return x.onVolume(url.Values{"path": {"."}}, smallTar()) },

	"startUpload":    fileCall("path", "upload"),
	"getUpload":      uploadCall("", ""),
	"continueUpload": uploadCall("offset", "bytes"),
	"cancelUpload":   uploadCall("", ""),
	"finishUpload":   uploadCall("", ""),

	"locate":       fileCall("path", "file"),
	"reserveParts": bodyCall(`{"parts":[]}`),
	"commitParts":  bodyCall(`{"path":"direct","size":5,"parts":[]}`),

	"listAttachments": func(x *fixture) apiCall {
		return apiCall{query: url.Values{"volume": {x.volume}}, target: "volume"}
	},
	"attach": bodyCall(`{"holder":"another"}`),
	"detach": func(x *fixture) apiCall {
		return apiCall{path: map[string]string{"attachment": x.attachment}, query: url.Values{"session": {x.session}}, target: "session"}
	},

	"openSession":  plainCall,
	"closeSession": sessionCall,
	"renewSession": sessionCall,
	"openFilesystem": func(x *fixture) apiCall {
		c := sessionCall(x)
		c.query, c.target = url.Values{"volume": {x.volume}}, "session"
		return c
	},
	"closeFilesystem": func(x *fixture) apiCall { return apiCall{path: map[string]string{"filesystem": x.filesystem}} },
	"openFile": func(x *fixture) apiCall {
		return apiCall{path: map[string]string{"filesystem": x.filesystem}, query: url.Values{"path": {"made"}, "create": {"true"}}}
	},
	"statHandle":     handleCall(""),
	"closeHandle":    handleCall(""),
	"readHandle":     handleCall("", "offset", "0", "length", "10"),
	"writeHandle":    handleCall("bytes", "offset", "5"),
	"appendHandle":   handleCall("bytes"),
	"nextData":       handleCall("", "offset", "0"),
	"truncateHandle": handleCall("", "size", "5"),
	"punchHole":      handleCall("", "offset", "0", "length", "4"),
	"syncHandle":     handleCall(""),

	"listKeys":  plainCall,
	"createKey": func(*fixture) apiCall { return apiCall{body: `{"name":"made","scopes":["read"]}`} },
	"revokeKey": func(x *fixture) apiCall { return apiCall{path: map[string]string{"key": x.key}} },
	"listAudit": queryCall("limit", "5"),
	"listOrgs":  plainCall,
	"createOrg": func(*fixture) apiCall { return apiCall{body: `{"name":"newcomers"}`} },
	"removeOrg": func(*fixture) apiCall { return apiCall{path: map[string]string{"org": "other"}} },
	"createOrgKey": func(*fixture) apiCall {
		return apiCall{path: map[string]string{"org": DefaultOrg}, body: `{"name":"made","scopes":["read"]}`}
	},
}

func pairs(list []string) url.Values {
	q := url.Values{}
	for i := 0; i < len(list); i += 2 {
		q.Set(list[i], list[i+1])
	}
	return q
}

func plainCall(*fixture) apiCall { return apiCall{} }

func queryCall(list ...string) func(*fixture) apiCall {
	return func(*fixture) apiCall { return apiCall{query: pairs(list)} }
}

func fileCall(list ...string) func(*fixture) apiCall {
	return func(x *fixture) apiCall { return x.onVolume(pairs(list), "") }
}

func writeCall(body string, list ...string) func(*fixture) apiCall {
	return func(x *fixture) apiCall { return x.onVolume(pairs(list), body) }
}

func bodyCall(body string) func(*fixture) apiCall {
	return func(x *fixture) apiCall { return x.onVolume(nil, body) }
}

func sessionCall(x *fixture) apiCall { return apiCall{path: map[string]string{"session": x.session}} }

func handleCall(body string, list ...string) func(*fixture) apiCall {
	return func(x *fixture) apiCall {
		return apiCall{path: map[string]string{"handle": x.handle}, query: pairs(list), body: body}
	}
}

func uploadCall(offset, body string) func(*fixture) apiCall {
	return func(x *fixture) apiCall {
		c := apiCall{path: map[string]string{"upload": x.upload}, body: body}
		if offset != "" {
			c.query = url.Values{offset: {"0"}}
		}
		return c
	}
}

func smallTar() string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "unpacked", Mode: 0o644, Size: 2})
	_, _ = w.Write([]byte("hi"))
	_ = w.Close()
	return b.String()
}

// inOpenFilesystem is the call made through an open file system of x.
func (c apiCall) inOpenFilesystem(x *fixture) apiCall {
	c.header = http.Header{"Vole-Filesystem": {x.filesystem}}
	return c
}
