"""What a night did, as one page: read data.json and videos below the run folder, write report/index.html."""
