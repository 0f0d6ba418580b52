"""What a run trains and measures: language models, images, or a task of one's own."""
