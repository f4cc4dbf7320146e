"""What a task is: its states, what it runs, its deadlines, and the statuses that tell of it. No I/O."""
