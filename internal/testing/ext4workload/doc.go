// Package ext4workload generates random operations on a file system, and applies them to
// package ext4, to a directory by system calls, and to a model in memory that predicts the
// result.
//
// A test takes a [Gen] over a [Model], and applies each operation of [Gen.Next] to the
// model and to one or two of the others. All must return the same error ([Errno]), and
// show the same tree afterwards ([Model.Tree], and package ext4oracle for the others). The
// same seed gives the same operations, so a failure can be repeated. [Expected] and
// [Model.Partly] are for errors that the model cannot predict, as when space runs out.
package ext4workload
