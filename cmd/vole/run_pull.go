package main

import "github.com/volehq/vole"

// pullProgress shows on a terminal how far an image is fetched. It takes the terminal only
// from Begin to End: what runs afterwards gets it as it was.
type pullProgress struct {
	*progress
	app *app
}

// Begin shows the bar.
func (p *pullProgress) Begin(image string, bytes int64) {
	p.progress = p.app.startProgress(&progress{image: escapeControls(image)})
	p.setTotal(bytes)
}

// End takes the bar away and says what was done.
func (p *pullProgress) End(err error) {
	p.endBar(err == nil, "pulled "+p.image, vole.Size(p.size.Load()))
}
