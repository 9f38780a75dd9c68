"""Teach it: exercises, questions, diagrams."""
