package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/volehq/vole/docs"
)

const (
	topicsTopic = "topics" // lists the others

	pipeWidth = 80  // of pages where standard output is no terminal
	pageWidth = 100 // at most: longer lines are hard to read
)

// showTopic prints a page of the documentation, or the list of them.
func (a *app) showTopic(root *cobra.Command, name string) error {
	if name == topicsTopic {
		return a.listTopics(root)
	}
	names := []string{topicsTopic}
	for _, topic := range docs.Topics() {
		if topic.Name == name {
			width := a.stdout.terminalWidth()
			if width <= 0 {
				width = pipeWidth
			}
			_, err := io.WriteString(a.stdout, topic.Render(min(width, pageWidth)))
			return err
		}
		names = append(names, topic.Name)
	}
	for _, c := range root.Commands() {
		names = append(names, c.Name())
	}
	return &hinted{usageErrorf("help: unknown topic %q", name), suggestName(name, names, "'vole --help' lists the commands, 'vole help topics' the topics")}
}

// listTopics lists the pages, and the topics among the commands.
func (a *app) listTopics(root *cobra.Command) error {
	t := a.newTable("TOPIC", "WHAT IT IS ABOUT")
	for _, topic := range docs.Topics() {
		if err := t.addRow(topic.Name, topic.Title); err != nil {
			return err
		}
	}
	for _, c := range root.Commands() {
		if c.IsAdditionalHelpTopicCommand() {
			if err := t.addRow(c.Name(), c.Short); err != nil {
				return err
			}
		}
	}
	return t.close()
}

// completeTopics completes names of pages.
func completeTopics(prefix string) (list []cobra.Completion) {
	if strings.HasPrefix(topicsTopic, prefix) {
		list = append(list, cobra.CompletionWithDesc(topicsTopic, "List the topics"))
	}
	for _, topic := range docs.Topics() {
		if strings.HasPrefix(topic.Name, prefix) {
			list = append(list, cobra.CompletionWithDesc(topic.Name, topic.Title))
		}
	}
	return list
}
