"""What a run would cost and yield, before it is paid for."""
