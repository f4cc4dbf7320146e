"""The executor itself: one owner thread for all state, to which everything else talks through its loop."""
