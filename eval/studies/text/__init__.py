"""What words bring: ablation from equal starts, other words in finished weights."""
