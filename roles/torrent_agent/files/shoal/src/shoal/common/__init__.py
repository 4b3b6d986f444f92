"""What several rooms need and none owns: it knows no room."""
