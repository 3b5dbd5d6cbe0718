"""Pictures of masks, predictions and attention, drawn with numpy and PIL."""
