"""Live control: any session sees a run that goes on elsewhere and gives it orders, through the run's control actor."""
